// Asking the daemon. A token is kept for this tab only, and sent in a header, never in an address.

const KEY = "tracer-token";
const LIMIT_MS = 15_000;

/** The daemon answered, but not with what was asked for. */
export class Refused extends Error {
  constructor(status, message, tokens) {
    super(message);
    this.status = status;
    /** Of 401: `wanted`, or `none` where no token would help. */
    this.tokens = tokens;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

/** JSON from an address relative to the page. Throws `Refused`, or another error when nobody answers. */
export async function ask(path) {
  const headers = { Accept: "application/json" };
  if (token.get()) headers["X-Tracer-Token"] = token.get();
  const answer = await fetch(path, { headers, cache: "no-store", signal: AbortSignal.timeout(LIMIT_MS) });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, said.error ?? said.message ?? `status ${answer.status}`, said.tokens ?? "wanted");
}
