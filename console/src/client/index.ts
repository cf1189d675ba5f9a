/**
 * Client of OpenCode functions for browsers and Node: `Gateway` over HTTP, `Backend` over NATS, and the stream library.
 * docs/how-to/call-from-typescript.md has an example.
 */

// Both have these; the types are the same.
export type { Chunk, ChunkType, FieldError, State } from "../stream";
export * from "../stream";
export type * from "./api-types";
export type * as events from "./event-data-types";
export { type Download, Gateway, type GatewayOptions, type ListedRule, type SessionRecord } from "./gateway";
export { Backend, type BackendOptions, type Connection, connectBackend, NotStored } from "./nats-commands";
