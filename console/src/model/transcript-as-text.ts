import { plain } from "./ansi";
import type { Row } from "./transcript-rows";

/** What an execution said, as plain text: for copying and for the text download. */
export function asText(rows: readonly Row[]): string {
  return rows.map(rowAsText).filter(Boolean).join("\n");
}

function rowAsText(row: Row): string {
  switch (row.kind) {
    case "text":
      return row.format === "code" ? row.source.trimEnd() : `${row.source.trimEnd()}\n`;
    case "reasoning":
      return `(thinking) ${row.source.trim()}\n`;
    case "tool": {
      const outcome = row.state === "failed" ? ` [failed${row.exitCode === null ? "" : ` with ${row.exitCode}`}]` : "";
      return `> ${row.tool} ${row.title}${outcome}\n${plain(row.output).trimEnd()}\n`;
    }
    case "output":
      return plain(row.source).trimEnd();
    case "file":
      return `${row.change} ${row.path}`;
    case "attempt":
      return `--- attempt ${row.number} ---`;
    default:
      return `[${row.kind}] ${row.source}`;
  }
}
