const NAME = "ocf-search";
/** Places that are marked at once; the search itself goes by rows and finds all. */
const MARKED_MOST = 5_000;

/**
 * Marks every place below `root` that has `query`, without touching the page's elements (CSS Custom Highlight API).
 * A browser without it still jumps from match to match.
 */
export function highlight(root: HTMLElement | null, query: string): void {
  if (!("highlights" in CSS)) return;
  const wanted = query.trim().toLowerCase();
  if (!root || wanted === "") {
    CSS.highlights.delete(NAME);
    return;
  }
  const ranges: Range[] = [];
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = (node.textContent ?? "").toLowerCase();
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      if (ranges.length >= MARKED_MOST) break;
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, at + wanted.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set(NAME, new Highlight(...ranges));
}
