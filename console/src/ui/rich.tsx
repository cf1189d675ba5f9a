import { memo, type ReactNode } from "react";
import { pieces } from "../model/ansi";
import { plural } from "../model/format";
import { type Block, blocks, type Inline, inlines, PROSE_MOST } from "../model/markdown";

/** Text with ANSI colours. */
export const Ansi = memo(function Ansi({ text }: { text: string }): ReactNode {
  return pieces(text).map((piece, at) => {
    if (!piece.colour && !piece.background && !piece.bold && !piece.dim && !piece.italic && !piece.underline)
      return piece.text;
    const classes = [piece.bold && "b", piece.dim && "d", piece.italic && "i", piece.underline && "u"];
    return (
      <span
        // biome-ignore lint/suspicious/noArrayIndexKey: pieces never move, the text only grows
        key={at}
        className={classes.filter(Boolean).join(" ") || undefined}
        style={{ color: piece.colour ?? undefined, backgroundColor: piece.background ?? undefined }}
      >
        {piece.text}
      </span>
    );
  });
});

/** What the model wrote, as far as its Markdown is understood. */
export const Prose = memo(function Prose({ source }: { source: string }): ReactNode {
  const beyond = source.length - PROSE_MOST;
  return (
    <>
      {blocks(source).map((block, at) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: blocks never move, the text only grows
        <BlockView key={at} block={block} />
      ))}
      {beyond > 0 && <p className="hint">{`${plural(beyond, "more character")} here: the download has all of it.`}</p>}
    </>
  );
});

function BlockView({ block }: { block: Block }): ReactNode {
  switch (block.kind) {
    case "heading":
      return <p className={`md-heading level-${block.level}`}>{inline(block.text)}</p>;
    case "paragraph":
      return <p>{inline(block.text)}</p>;
    case "quote":
      return <blockquote>{inline(block.text)}</blockquote>;
    case "rule":
      return <hr />;
    case "list":
      return (
        <ul className="md-list">
          {block.items.map((item, at) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: items never move, the text only grows
            <li key={at} style={{ marginInlineStart: `${item.depth * 1.25}em` }} data-marker={item.marker || "•"}>
              {item.done !== null && (
                <input type="checkbox" checked={item.done} readOnly tabIndex={-1} aria-label="done" />
              )}
              <span>{inline(item.text)}</span>
            </li>
          ))}
        </ul>
      );
    case "table":
      return (
        <div className="md-table">
          <table>
            <tbody>
              {block.rows.map((row, at) => (
                // biome-ignore lint/suspicious/noArrayIndexKey: rows never move, the text only grows
                <tr key={at}>
                  {row.map((cell, column) => (
                    // biome-ignore lint/suspicious/noArrayIndexKey: cells never move
                    <td key={column}>{inline(cell)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      );
  }
}

function inline(text: string): ReactNode {
  return elements(inlines(text));
}

function elements(parts: readonly Inline[]): ReactNode {
  return parts.map((part, at) => element(part, at));
}

function element(part: Inline, key: number): ReactNode {
  switch (part.kind) {
    case "code":
      return <code key={key}>{part.text}</code>;
    case "strong":
      return <strong key={key}>{elements(part.parts)}</strong>;
    case "emphasis":
      return <em key={key}>{elements(part.parts)}</em>;
    case "strike":
      return <s key={key}>{elements(part.parts)}</s>;
    case "link":
      return (
        <a key={key} href={part.href} target="_blank" rel="noreferrer noopener">
          {elements(part.parts)}
        </a>
      );
    case "text":
      return part.text;
  }
}
