/** Texts of others within a line of ours: names, titles, values. */

/** Controls, and what turns the direction of the text around it or cannot be seen: it is shown as its code. */
const HIDDEN = /[\p{Cc}\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;
const LINE_MOST = 400;

/** A name or title as one line: nothing in it is invisible or moves its neighbours, and it has an end. */
export function visible(text: string, most = LINE_MOST): string {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return cut.replace(/[\t\n\r]+/g, " ").replace(HIDDEN, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`);
}

const VALUE_MOST = 4_000;
const VALUE_DEPTH = 8;

/** A JSON value in one line, of bounded length and depth: `JSON.stringify` has neither. */
export function brief(value: unknown, most = VALUE_MOST): string {
  const out: string[] = [];
  let left = most;
  const say = (text: string): boolean => {
    out.push(text.slice(0, Math.max(0, left)));
    left -= text.length;
    return left > 0;
  };
  const show = (one: unknown, depth: number): boolean => {
    if (typeof one === "string") return say(JSON.stringify(one.slice(0, left)));
    if (typeof one !== "object" || one === null) return say(String(one));
    if (depth >= VALUE_DEPTH) return say(Array.isArray(one) ? "[…]" : "{…}");
    if (Array.isArray(one)) {
      if (!say("[")) return false;
      for (let at = 0; at < one.length; at += 1) {
        if ((at > 0 && !say(",")) || !show(one[at], depth + 1)) return false;
      }
      return say("]");
    }
    if (!say("{")) return false;
    let comma = "";
    for (const [name, inner] of Object.entries(one)) {
      if (!say(`${comma}${JSON.stringify(name.slice(0, left))}:`) || !show(inner, depth + 1)) return false;
      comma = ",";
    }
    return say("}");
  };
  const whole = show(value, 0);
  return whole ? out.join("") : `${out.join("")}…`;
}
