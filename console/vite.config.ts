import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

/** The gateway that `npm run dev` talks to. */
const gateway = process.env.OCF_GATEWAY ?? "http://127.0.0.1:3003";
const api = ["/tasks", "/sessions", "/dlq", "/ready", "/health"];

export default defineConfig({
  plugins: [react()],
  // Relative: the console works below any path a proxy gives it.
  base: "./",
  server: {
    host: "127.0.0.1",
    proxy: Object.fromEntries(api.map((path) => [path, { target: gateway, ws: true }])),
  },
  build: { target: "es2022", sourcemap: false, chunkSizeWarningLimit: 400 },
  test: { include: ["tests/**/*.test.{ts,tsx}"], environment: "node", testTimeout: 15_000 },
});
