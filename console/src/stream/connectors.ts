import { jwtAuthenticator, wsconnect } from "@nats-io/nats-core";
import { NotAChunk, parseChunk } from "./ndjson";
import type { Chunk, Connector, Live } from "./types";
import { openSocket } from "./websocket-class";

/** How long opening may take, in milliseconds, before the next way is tried. */
const OPEN_MS = 5_000;
/** The gateway says something every 15 seconds, a heartbeat if nothing else: after such a silence it is gone. */
const SILENCE_MS = 45_000;
/** Close code of a WebSocket when the execution has ended, and of a client that wants no more. */
const REGULAR = 1000;

/**
 * Core NATS over WebSocket, as the viewer: subscribes, and resolves after a round trip, when the server is
 * known to have the subscription. The library's own reconnection is off: only `watch` knows what was missed.
 */
export function natsConnector(): Connector {
  return {
    transport: "nats",
    order: "subscribe-first",
    async open(viewer, _from, onChunk) {
      if (!viewer.nats_ws) throw new Error("the gateway offers no NATS address");
      const connection = await wsconnect({
        servers: viewer.nats_ws,
        authenticator: jwtAuthenticator(viewer.jwt, new TextEncoder().encode(viewer.seed)),
        wsFactory: natsSocket,
        reconnect: false,
        timeout: OPEN_MS,
        pingInterval: 10_000,
        maxPingOut: 2,
      });
      let refusal: string | null = null;
      connection.subscribe(viewer.subject, {
        callback: (error, message) => {
          if (error) {
            // A subscription the server refuses arrives here; without it nothing would ever come.
            refusal = error.message;
            void connection.close();
          } else {
            deliver(message.string(), onChunk);
          }
        },
      });
      const closed = connection.closed().then((error) => refusal ?? (error ? error.message : "connection closed"));
      // A connection that is closed before the answer to its flush leaves the flush pending for ever.
      const ending = await Promise.race([connection.flush(), closed]);
      if (refusal ?? ending) throw new Error(refusal ?? String(ending));
      return { closed, close: () => void connection.close() };
    },
  };
}

/** Opens the socket of a NATS connection, as the library does, in a runtime without one too. */
export async function natsSocket(url: string): Promise<{ socket: WebSocket; encrypted: boolean }> {
  return { socket: openSocket(url, []), encrypted: url.startsWith("wss:") };
}

/** `WS /tasks/{id}/stream?from=SEQ`, for networks that let no NATS through. */
export function websocketConnector(url: (from: number) => string, protocols?: () => string[]): Connector {
  return {
    transport: "websocket",
    order: "history-first",
    open(_viewer, from, onChunk) {
      return new Promise<Live>((resolve, reject) => {
        const socket = openSocket(url(from), protocols?.() ?? []);
        let timer: ReturnType<typeof setTimeout>;
        let over = (_reason: string | null): void => undefined;
        const closed = new Promise<string | null>((done) => {
          over = (reason) => {
            clearTimeout(timer);
            reject(new Error(reason ?? "closed"));
            done(reason);
          };
        });
        // Not left to the closing handshake: who is gone does not answer that either.
        const expect = (ms: number, otherwise: string): void => {
          clearTimeout(timer);
          timer = setTimeout(() => {
            over(otherwise);
            socket.close();
          }, ms);
        };
        expect(OPEN_MS, "the gateway's WebSocket does not open");
        socket.onclose = ({ code, reason }: CloseEvent) =>
          over(code === REGULAR ? null : reason || `WebSocket closed (${code})`);
        socket.onmessage = (event: MessageEvent) => {
          expect(SILENCE_MS, "the gateway has gone silent");
          deliver(String(event.data), onChunk);
        };
        socket.onopen = () => {
          expect(SILENCE_MS, "the gateway has gone silent");
          resolve({
            closed,
            close: () => {
              over(null);
              socket.close(REGULAR);
            },
          });
        };
      });
    },
  };
}

/** Hands a message on. Heartbeats and what else is no chunk are not output: a lost chunk shows as a gap. */
function deliver(text: string, onChunk: (chunk: Chunk) => void): void {
  let chunk: Chunk;
  try {
    chunk = parseChunk(text);
  } catch (error) {
    if (error instanceof NotAChunk) return;
    throw error;
  }
  onChunk(chunk);
}
