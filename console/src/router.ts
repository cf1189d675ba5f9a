import { useSyncExternalStore } from "react";

/** Where the console is, from the address behind `#`: `#/tasks/<id>?view=changes`. */
export interface Route {
  readonly path: readonly string[];
  readonly query: URLSearchParams;
  readonly hash: string;
}

let route = read();

function read(): Route {
  const hash = globalThis.location?.hash.slice(1) || "/";
  const [path = "/", query = ""] = hash.split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query), hash };
}

/** An address that somebody cut short or typed is still one: it leads to a page that says there is none. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function subscribe(changed: () => void): () => void {
  const listen = (): void => {
    route = read();
    changed();
  };
  window.addEventListener("hashchange", listen);
  return () => window.removeEventListener("hashchange", listen);
}

export function useRoute(): Route {
  return useSyncExternalStore(subscribe, () => route);
}

/** The address of a place in the console. Empty values are left out. */
export function href(path: string, query: Record<string, string | undefined> = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) search.set(name, value);
  const text = search.toString();
  return `#${path}${text ? `?${text}` : ""}`;
}

export function go(address: string): void {
  window.location.hash = address;
}

/** Changes the address without a step in the browser's history: for filters and tabs. */
export function replace(address: string): void {
  window.history.replaceState(null, "", address);
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}
