import { describe, expect, it } from "vitest";
import { attach, MAX_BYTES, MAX_FILES, mediaTypeOf } from "../../src/model/attachments";
import { BLANK, bodyOf, fieldOf } from "../../src/model/submission";

const file = (name: string, content: string | Uint8Array<ArrayBuffer>, type = ""): File =>
  new File([content], name, { type });

describe("attachments", () => {
  it("sends images and PDFs as what they are, and every other text as text", async () => {
    expect(mediaTypeOf("image/png", new Uint8Array())).toBe("image/png");
    expect(mediaTypeOf("text/x-python", new TextEncoder().encode("print(1)"))).toBe("text/plain");
    expect(mediaTypeOf("image/svg+xml", new TextEncoder().encode("<svg/>"))).toBe("text/plain");
    expect(mediaTypeOf("application/zip", new Uint8Array([0x50, 0x4b, 0xff]))).toBeNull();
    const { added, problem } = await attach([], [file("notes.txt", "héllo")]);
    expect(problem).toBeNull();
    expect(bodyOf({ ...BLANK, prompt: "x", attachments: added })["attachments"]).toEqual([
      { name: "notes.txt", media_type: "text/plain", data: "aMOpbGxv" },
    ]);
  });

  it("keeps what fits and says what does not", async () => {
    const large = file("large.txt", new Uint8Array(MAX_BYTES + 1));
    expect((await attach([], [file("a.txt", "a"), large])).problem).toContain("large.txt: at most 10 MiB");
    const binary = await attach([], [file("a.bin", new Uint8Array([0, 255]))]);
    expect(binary).toEqual({ added: [], problem: "a.bin: only images, PDFs and text files." });
    const many = Array.from({ length: MAX_FILES + 1 }, (_, at) => file(`${at}.txt`, "a"));
    const found = await attach([], many);
    expect([found.added.length, found.problem]).toEqual([MAX_FILES, `At most ${MAX_FILES} files.`]);
  });

  it("shows the gateway's errors at their fields", () => {
    expect(fieldOf("attachments.0.media_type")).toBe("attachments");
    expect(fieldOf("model_config.variant")).toBe("variant");
    expect(fieldOf("output_schema")).toBe("outputSchema");
  });

  it("sends a schema as JSON, and as text where it is none", () => {
    expect(bodyOf({ ...BLANK, outputSchema: '{"type": "object"}' })["output_schema"]).toEqual({ type: "object" });
    expect(bodyOf({ ...BLANK, outputSchema: "{" })["output_schema"]).toBe("{");
    expect("output_schema" in bodyOf(BLANK)).toBe(false);
  });
});
