import type { Viewer } from "./types";

/** Renewal happens this long before expiry, in milliseconds (a hidden page's timers come up to a minute late), or at two thirds of a shorter life. */
const MARGIN_MS = 120_000;
/** Never more often than this, in milliseconds: also the pace of tries after a failed renewal. */
const LEAST_MS = 1_000;

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
