import type { Chunk } from "../stream";
import { asText } from "./transcript-as-text";
import type { Row } from "./transcript-rows";

/** Hands a file to the reader. The page has all of it: what is downloaded is what is shown. */
export function save(name: string, type: string, content: string): void {
  const url = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // The click has taken the address by then; Safari is slow.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function saveText(id: string, rows: readonly Row[]): void {
  save(`${id}.txt`, "text/plain;charset=utf-8", asText(rows));
}

/** The same lines as `GET /tasks/{id}/output?format=ndjson`. */
export function saveChunks(id: string, chunks: readonly Chunk[]): void {
  save(`${id}.ndjson`, "application/x-ndjson", chunks.map((chunk) => `${JSON.stringify(chunk)}\n`).join(""));
}
