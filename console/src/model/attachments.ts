/** Files for the model: what may be attached, and as what. */

export interface Attached {
  readonly name: string;
  readonly mediaType: string;
  /** Base64. */
  readonly data: string;
  readonly bytes: number;
}

export const MAX_FILES = 20;
/** Of all together, as the gateway has it. */
export const MAX_BYTES = 10 * 1024 * 1024;

const BINARY: ReadonlySet<string> = new Set(["application/pdf", "image/gif", "image/jpeg", "image/png", "image/webp"]);

/** The media type to send: the browser's for images and PDFs, plain text for every other file that is text. */
export function mediaTypeOf(type: string, bytes: Uint8Array): string | null {
  if (BINARY.has(type)) return type;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).includes("\0") ? null : "text/plain";
  } catch {
    return null;
  }
}

/** What is added to the files that are there; the message says what could not be. */
export async function attach(
  before: readonly Attached[],
  files: readonly File[],
): Promise<{ added: readonly Attached[]; problem: string | null }> {
  const added: Attached[] = [];
  let left = MAX_BYTES - before.reduce((sum, one) => sum + one.bytes, 0);
  let problem: string | null = null;
  for (const file of files) {
    if (before.length + added.length >= MAX_FILES) problem = `At most ${MAX_FILES} files.`;
    else if (file.size > left) problem = `${file.name}: at most ${MAX_BYTES / 1024 / 1024} MiB in all.`;
    else {
      const content = await file.arrayBuffer().catch(() => null);
      const bytes = new Uint8Array(content ?? new ArrayBuffer());
      const mediaType = mediaTypeOf(file.type, bytes);
      if (content === null) problem = `${file.name}: cannot be read.`;
      else if (mediaType === null) problem = `${file.name}: only images, PDFs and text files.`;
      else {
        left -= bytes.length;
        added.push({ name: file.name || "pasted", mediaType, data: base64(bytes), bytes: bytes.length });
      }
    }
    if (problem) break;
  }
  return { added, problem };
}

function base64(bytes: Uint8Array): string {
  const pieces: string[] = [];
  // In pieces: a call takes only so many arguments.
  for (let at = 0; at < bytes.length; at += 32_768)
    pieces.push(String.fromCharCode(...bytes.subarray(at, at + 32_768)));
  return btoa(pieces.join(""));
}
