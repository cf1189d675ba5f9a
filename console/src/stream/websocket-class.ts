type SocketClass = typeof globalThis.WebSocket;

let given: SocketClass | undefined;

/** Names the WebSocket to use where the runtime has none of its own (Node before 22). */
export function provideWebSocket(socket: SocketClass): void {
  given = socket;
}

/** @throws Error in a runtime without a WebSocket */
export function openSocket(url: string, protocols: string | string[]): WebSocket {
  const socket = globalThis.WebSocket ?? given;
  if (!socket) throw new Error("this runtime has no WebSocket: use Node 22, or name one with provideWebSocket");
  return new socket(url, protocols);
}
