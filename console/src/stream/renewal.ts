import { Refused } from "./gateway-requests";
import type { Viewer } from "./types";

/** Renewal happens this long before expiry, in milliseconds (a hidden page's timers come up to a minute late), or at two thirds of a shorter life. */
const MARGIN_MS = 120_000;
/** Never more often than this, in milliseconds: also the pace of tries after a failed renewal. */
const LEAST_MS = 1_000;
/** After a renewal that failed it is tried again this much later, in milliseconds. */
const AGAIN_MS = 2_000;

/** A connection with new credentials. */
export interface Renewed {
  /** When these are to be renewed, in Unix milliseconds. */
  readonly next: number;
  /** Takes the place of the connection in use. */
  use(): void;
  /** Closes it unused. */
  drop(): void;
}

/**
 * Calls `renew` at `renewAt` (Unix milliseconds), and from then on when what it gave is to be renewed.
 *
 * @param renew null: there is nothing that expires
 * @param refused called when renewal is not allowed any more; any other failure is tried again while the old one lives
 * @returns stops it
 */
export function keepRenewed(
  renewAt: number,
  renew: () => Promise<Renewed | null>,
  refused: (error: Refused) => void,
): () => void {
  let timer: ReturnType<typeof setTimeout>;
  let stopped = false;
  const plan = (at: number): void => {
    timer = setTimeout(() => void run(), Math.max(0, at - Date.now()));
  };
  const run = async (): Promise<void> => {
    let next = Date.now() + AGAIN_MS;
    try {
      const renewed = await renew();
      if (!renewed) return;
      next = renewed.next;
      // What it was for may be over meanwhile: nobody would close this one.
      if (stopped) renewed.drop();
      else renewed.use();
    } catch (error) {
      if (stopped) return;
      if (error instanceof Refused && error.final) {
        refused(error);
        return;
      }
    }
    if (!stopped) plan(next);
  };
  plan(renewAt);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

/**
 * Milliseconds until credentials got just now are to be renewed.
 *
 * Their life is read from the JWT's own `iat` and `exp` where it has both: a browser's clock may be wrong by hours,
 * and both of these are the server's. Otherwise `expires_at` is compared with `now`.
 */
export function renewalDelay(viewer: Viewer, now: number): number {
  const life = lifeOf(viewer.jwt) ?? Date.parse(viewer.expires_at) - now;
  if (Number.isNaN(life)) return MARGIN_MS;
  return Math.max(LEAST_MS, life - Math.min(MARGIN_MS, life / 3));
}

function lifeOf(jwt: string): number | null {
  try {
    const payload = jwt.split(".")[1] ?? "";
    const claims = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/"))) as {
      iat?: number;
      exp?: number;
    };
    return claims.iat && claims.exp ? (claims.exp - claims.iat) * 1_000 : null;
  } catch {
    return null; // no JWT: a server without authentication gives none
  }
}
