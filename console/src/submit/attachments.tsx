import { type ClipboardEvent, type DragEvent, type ReactNode, useRef, useState } from "react";
import { attach } from "../model/attachments";
import { bytes as sizeOf } from "../model/format";
import type { FormProps } from "./fields";

/** Around the prompt: files are dropped on it, pasted into it, or chosen; below it they are listed. */
export function Attachments({ form, set, errors, children }: FormProps & { children: ReactNode }): ReactNode {
  const [problem, setProblem] = useState<string | null>(null);
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const add = async (files: readonly File[]): Promise<void> => {
    const found = await attach(form.attachments, files);
    setProblem(found.problem);
    set("attachments", (before) => [...before, ...found.added]);
  };
  const onPaste = (event: ClipboardEvent): void => {
    const files = [...event.clipboardData.files];
    if (files.length === 0) return; // text goes into the field
    event.preventDefault();
    void add(files);
  };
  const onDrag = (event: DragEvent): void => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    setOver(event.type !== "dragleave");
  };
  const onDrop = (event: DragEvent): void => {
    setOver(false);
    if (event.dataTransfer.files.length === 0) return;
    event.preventDefault();
    void add([...event.dataTransfer.files]);
  };
  const message = problem ?? errors.get("attachments");
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: the button below does the same for the keyboard.
    <div
      className={over ? "attachments over" : "attachments"}
      onPaste={onPaste}
      onDragOver={onDrag}
      onDragLeave={onDrag}
      onDrop={onDrop}
    >
      {children}
      <div className="attached">
        <button type="button" className="button" onClick={() => input.current?.click()}>
          Attach files
        </button>
        <input
          ref={input}
          type="file"
          multiple
          hidden
          onChange={(event) => {
            void add([...(event.target.files ?? [])]);
            event.target.value = "";
          }}
        />
        {form.attachments.length === 0 && <span className="hint">or drop them here, or paste an image</span>}
        <ul>
          {form.attachments.map((one, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: two files may have one name.
            <li key={index}>
              <span>
                {one.name} · {sizeOf(one.bytes)}
              </span>
              <button
                type="button"
                aria-label={`Remove ${one.name}`}
                onClick={() =>
                  set(
                    "attachments",
                    form.attachments.filter((_, at) => at !== index),
                  )
                }
              >
                ×
              </button>
            </li>
          ))}
        </ul>
        {message && (
          <p className="error" role="alert">
            {message}
          </p>
        )}
      </div>
    </div>
  );
}
