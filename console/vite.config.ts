import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { build, type Plugin } from "vite";
import { defineConfig } from "vitest/config";
import { version } from "./package.json" with { type: "json" };

/** The gateway that `npm run dev` talks to. */
const gateway = process.env.OCF_GATEWAY ?? "http://127.0.0.1:3003";
const api = ["/tasks", "/sessions", "/dlq", "/usage", "/ready", "/health"];
const LIBRARY = "dist/stream";
const CLIENT = "../clients/typescript/dist";
/** Names every bundled package with its licence, beside each bundle, as their licences ask. */
const license = { fileName: "THIRD-PARTY-LICENSES.md" };

/**
 * The stream library for front ends elsewhere, in one file with all it needs, beside the console's own: the gateway
 * serves it at `/stream/index.js`, and the folder is a package that npm installs.
 */
async function streamLibrary(): Promise<void> {
  await bundle("src/stream/index.ts", LIBRARY);
  declare("src/stream/index.ts", LIBRARY);
  const manifest = {
    name: "opencode-stream",
    version,
    type: "module",
    exports: "./index.js",
    types: "./index.d.ts",
  };
  writeFileSync(`${LIBRARY}/package.json`, `${JSON.stringify(manifest, null, 2)}\n`);
}

/** The TypeScript client, `clients/typescript`: one file for browsers, one for Node with a WebSocket of its own. */
async function client(): Promise<void> {
  await bundle("src/client/index.ts", CLIENT);
  await bundle("src/client/node.ts", `${CLIENT}/node`, true);
  declare("src/client/node.ts", `${CLIENT}/types`);
}

/** Bundles `entry` with all it imports as `outDir/index.js`. */
async function bundle(entry: string, outDir: string, forNode = false): Promise<void> {
  const node = forNode ? { ssr: { noExternal: true as const, target: "node" as const } } : {};
  await build({
    configFile: false,
    logLevel: "warn",
    publicDir: false,
    ...node,
    build: {
      target: "es2022",
      outDir,
      emptyOutDir: true,
      ssr: forNode,
      license,
      lib: { entry, formats: ["es"], fileName: () => "index.js" },
    },
  });
}

/** Writes the types of `entry` and its imports to `outDir`, as every way to resolve modules finds them. */
function declare(entry: string, outDir: string): void {
  const types = ["--declaration", "--emitDeclarationOnly", "--ignoreConfig", "--skipLibCheck", "--strict"];
  const language = ["--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler"];
  const where = [entry, "--outDir", outDir, "--lib", "es2023,dom,dom.iterable", "--types", "node"];
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", ...where, ...types, ...language]);
  for (const file of readdirSync(outDir, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".d.ts")) continue;
    const text = readFileSync(`${outDir}/${file}`, "utf8");
    const named = text.replace(/( from "\.{1,2}\/[^"]+)"/g, (_, path: string) => {
      return `${path}${path.endsWith("/stream") ? "/index" : ""}.js"`;
    });
    writeFileSync(`${outDir}/${file}`, named);
  }
}

function packages(): Plugin {
  return {
    name: "packages",
    apply: "build",
    async closeBundle() {
      await streamLibrary();
      await client();
    },
  };
}

export default defineConfig({
  plugins: [react(), packages()],
  // Relative: the console works below any path a proxy gives it.
  base: "./",
  server: {
    host: "127.0.0.1",
    proxy: Object.fromEntries(api.map((path) => [path, { target: gateway, ws: true }])),
  },
  build: { target: "es2022", sourcemap: false, chunkSizeWarningLimit: 400, license },
  test: { include: ["tests/**/*.test.{ts,tsx}"], environment: "node", testTimeout: 60_000 },
});
