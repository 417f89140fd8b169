import { z } from '@hono/zod-openapi';
import { word } from './fields.ts';

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
        device: z.string().openapi({ example: 'cpu' }),
        default: z.boolean(),
      }),
    ),
  })
  .openapi('ModelList');

export const healthSchema = z.object({ status: word('ok') }).openapi('Health');
export const readinessSchema = z.object({ status: word('ready') }).openapi('Readiness');
