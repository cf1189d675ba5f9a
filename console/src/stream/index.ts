/**
 * Live, lossless view of an execution for any front end: no framework, one dependency (`@nats-io/nats-core`).
 * Start with `watchExecution`; `README.md` beside this file has an example.
 */

export { type Batch, frameBatch } from "./batch";
export { natsConnector, websocketConnector } from "./connectors";
export { type FieldError, type Gateway, httpGateway, Refused } from "./gateway-requests";
export { type AttemptEnd, type SessionState, STATES, type State, TERMINAL_STATES } from "./lifecycle-states";
export { NotAChunk, parseChunk, readChunks } from "./ndjson";
export { renewalDelay } from "./renewal";
export { type Missing, Splicer } from "./splice";
export type * from "./types";
export { CHUNK_TYPES } from "./types";
export { defaultConnectors, type Watch, type WatchOptions, watch, watchExecution } from "./watch";
export { provideWebSocket } from "./websocket-class";
