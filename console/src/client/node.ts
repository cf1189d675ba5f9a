/** The client in Node, which has a WebSocket of its own from version 22 on. */

import { WebSocket } from "ws";
import { provideWebSocket } from "../stream/websocket-class";

provideWebSocket(WebSocket as unknown as typeof globalThis.WebSocket);

export * from "./index";
