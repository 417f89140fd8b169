import { z } from '@hono/zod-openapi';
import { word } from './fields.ts';

/** The scoring methods that are built; planned ones are not listed. */
export const methodListSchema = z
  .object({
    object: word('list'),
    data: z.array(
      z.object({
        id: z.string().openapi({ example: 'kvzip' }),
        object: word('method'),
        description: z.string(),
        paper: z.string().nullable().openapi({ description: 'null for a baseline of our own.' }),
        keepsAll: z.boolean().openapi({ description: 'Only keepRatio 1 makes sense.' }),
        default: z.boolean(),
      }),
    ),
  })
  .openapi('MethodList');

/** The engine's model, alone or, before the first start, none. */
export const modelListSchema = z
  .object({
    object: word('list'),
    data: z.array(
      z.object({
        id: z.string().openapi({ example: 'reader' }),
        object: word('model'),
        description: z.string(),
        fingerprint: z
          .string()
          .openapi({ description: 'Names the weights, tokenizer and template.' }),
        contextLength: z.number().int().openapi({ description: 'Tokens of the window.' }),
        device: z.string().openapi({
          description: 'Where it runs: cpu, or a CUDA device with its name.',
          example: 'cuda:0 NVIDIA H100 80GB HBM3',
        }),
        default: z.boolean(),
      }),
    ),
  })
  .openapi('ModelList');

/** The process is up; it may not be able to answer yet. */
export const healthSchema = z.object({ status: word('ok') }).openapi('Health');
/** The engine is up too; otherwise the route answers `engine_unavailable`. */
export const readinessSchema = z.object({ status: word('ready') }).openapi('Readiness');
