/** How much of a patch is shown: what is beyond is in the download. */

export const LINE_MOST = 2_000;
export const PATCH_MOST = 4_000_000;

export interface Shown {
  readonly patch: string;
  /** Lines that were cut at `LINE_MOST` characters. */
  readonly longLines: number;
  /** Files that were left out because the patch is longer than `PATCH_MOST`. */
  readonly filesLeftOut: number;
}

const FILE = "\ndiff --git ";

/** A patch as far as it is shown: whole files, their lines cut. */
export function shownPatch(patch: string): Shown {
  const cut = cutLines(patch);
  if (cut.patch.length <= PATCH_MOST) return { ...cut, filesLeftOut: 0 };
  const end = cut.patch.lastIndexOf(FILE, PATCH_MOST);
  const kept = end > 0 ? cut.patch.slice(0, end + 1) : cut.patch.slice(0, cut.patch.lastIndexOf("\n", PATCH_MOST) + 1);
  const rest = cut.patch.slice(kept.length);
  // With a first file that is longer than all there may be, its end is what is left out.
  return { patch: kept, longLines: cut.longLines, filesLeftOut: Math.max(1, `\n${rest}`.split(FILE).length - 1) };
}

function cutLines(patch: string): { patch: string; longLines: number } {
  if (patch.length <= LINE_MOST) return { patch, longLines: 0 };
  const out: string[] = [];
  let longLines = 0;
  let from = 0;
  while (from < patch.length) {
    const found = patch.indexOf("\n", from);
    const end = found < 0 ? patch.length : found;
    if (end - from > LINE_MOST) {
      longLines += 1;
      out.push(
        patch.slice(from, from + LINE_MOST),
        ` … ${(end - from - LINE_MOST).toLocaleString("en")} more characters\n`,
      );
    } else out.push(patch.slice(from, end + 1));
    from = end + 1;
  }
  return { patch: out.join(""), longLines };
}
