import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { build, type Plugin } from "vite";
import { defineConfig } from "vitest/config";
import { version } from "./package.json" with { type: "json" };

/** The gateway that `npm run dev` talks to. */
const gateway = process.env.OCF_GATEWAY ?? "http://127.0.0.1:3003";
const api = ["/tasks", "/sessions", "/dlq", "/ready", "/health"];
const LIBRARY = "dist/stream";

/**
 * The stream library for front ends elsewhere, in one file with all it needs, beside the console's own: the gateway
 * serves it at `/stream/index.js`, and the folder is a package that npm installs.
 */
function streamLibrary(): Plugin {
  return {
    name: "stream-library",
    apply: "build",
    async closeBundle() {
      await build({
        configFile: false,
        logLevel: "warn",
        publicDir: false,
        build: {
          target: "es2022",
          outDir: LIBRARY,
          lib: { entry: "src/stream/index.ts", formats: ["es"], fileName: () => "index.js" },
        },
      });
      const types = ["--declaration", "--emitDeclarationOnly", "--ignoreConfig", "--skipLibCheck", "--strict"];
      const language = ["--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"];
      const where = ["src/stream/index.ts", "--outDir", LIBRARY, "--lib", "es2023,dom,dom.iterable", "--types", "node"];
      execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...where, ...types, ...language]);
      const manifest = {
        name: "opencode-stream",
        version,
        type: "module",
        exports: "./index.js",
        types: "./index.d.ts",
      };
      writeFileSync(`${LIBRARY}/package.json`, `${JSON.stringify(manifest, null, 2)}\n`);
    },
  };
}

export default defineConfig({
  plugins: [react(), streamLibrary()],
  // Relative: the console works below any path a proxy gives it.
  base: "./",
  server: {
    host: "127.0.0.1",
    proxy: Object.fromEntries(api.map((path) => [path, { target: gateway, ws: true }])),
  },
  build: { target: "es2022", sourcemap: false, chunkSizeWarningLimit: 400 },
  test: { include: ["tests/**/*.test.{ts,tsx}"], environment: "node", testTimeout: 15_000 },
});
