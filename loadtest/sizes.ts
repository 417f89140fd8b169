/** How much load, for how long: counts bound a fast server, times a slow one. */
export interface Sizes {
  /** The few contexts that many questions are asked of, and their length. */
  readonly documents: number;
  readonly documentTokens: number;
  /** Different questions of each document. */
  readonly questions: number;
  /** Clients of *reuse* and *stream*. */
  readonly clients: number;
  /** A phase ends after so long, or so many requests. */
  readonly phaseMs: number;
  readonly phaseRequests: number;
  /** Kinds of clients of *mixed*, and of *soak* beside others. */
  readonly mixedStreams: number;
  readonly mixedAskers: number;
  readonly ingests: number;
  readonly ingestTokens: number;
  /** Contexts of *cold*: many more than its clients, since one in use stays in memory. */
  readonly coldClients: number;
  readonly coldDocuments: number;
  readonly coldTokens: number;
  readonly burstClients: number;
  /** Places of queries and of ingestions while *burst* runs. */
  readonly burstPlaces: number;
  readonly burstPuts: number;
  readonly baselineRequests: number;
  readonly baselineClients: number;
  readonly baselineMs: number;
  /** *clients*, of each of its rounds. */
  readonly manyClients: number;
  readonly manyRampMs: number;
  readonly manyMs: number;
  readonly soakSampleMs: number;
  readonly soakIngestTokens: number;
}

export const fullSizes: Sizes = {
  documents: 4,
  documentTokens: 4000,
  questions: 8,
  clients: 16,
  phaseMs: 40_000,
  phaseRequests: 4000,
  mixedStreams: 4,
  mixedAskers: 4,
  ingests: 3,
  ingestTokens: 6000,
  coldClients: 4,
  coldDocuments: 20,
  coldTokens: 1000,
  burstClients: 400,
  burstPlaces: 32,
  burstPuts: 64,
  baselineRequests: 4,
  baselineClients: 4,
  baselineMs: 120_000,
  manyClients: 1000,
  manyRampMs: 10_000,
  manyMs: 600_000,
  soakSampleMs: 10_000,
  soakIngestTokens: 1500,
};

export const quickSizes: Sizes = {
  documents: 2,
  documentTokens: 600,
  questions: 3,
  clients: 4,
  phaseMs: 4000,
  phaseRequests: 200,
  mixedStreams: 2,
  mixedAskers: 1,
  ingests: 1,
  ingestTokens: 2000,
  coldClients: 2,
  coldDocuments: 8,
  coldTokens: 300,
  burstClients: 40,
  burstPlaces: 4,
  burstPuts: 12,
  baselineRequests: 2,
  baselineClients: 2,
  baselineMs: 10_000,
  manyClients: 80,
  manyRampMs: 2000,
  manyMs: 240_000,
  soakSampleMs: 1000,
  soakIngestTokens: 400,
};

/** The greedy answer to a plain question is a few words; rambling costs little at this length. */
export const shortTokens = 32;
/** Long enough that decoding, not the question's tokens, is what takes the time. */
export const longTokens = 64;
