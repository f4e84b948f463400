// Requests by fetch, which are sent again until an answer is final.
import { errorOf, LedgerError, noAnswer, pauseMs, retryAfterMs, sleep } from "./errors.js";
import type { Refusal } from "./errors.js";

export interface Options {
  /** A key of the API. */
  apiKey?: string;
  /** The name of a ledger; without it the default ledger. */
  ledger?: string;
  /** For how long a call is sent again. */
  giveUpMs?: number;
  /** How long a request may take. */
  timeoutMs?: number;
  /** How many movements wait or are in flight; a further call waits. */
  queueLimit?: number;
  fetch?: typeof fetch;
}

/** The number of a line, from 1, and its answer. */
export type Take = (line: number, answer: Refusal) => void;

interface LineResult {
  line: number;
  status: number;
  body: unknown;
}

export class Connection {
  readonly giveUpMs: number;
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #timeoutMs: number;
  readonly #fetch: typeof fetch;

  constructor(url: string, options: Options) {
    const { ledger, apiKey } = options;
    const path = ledger === undefined ? "" : `/ledgers/${encodeURIComponent(ledger)}`;
    this.#base = url.replace(/\/+$/, "") + path;
    this.#headers = apiKey === undefined ? {} : { Authorization: `Bearer ${apiKey}` };
    this.#timeoutMs = options.timeoutMs ?? 30_000;
    this.giveUpMs = options.giveUpMs ?? 60_000;
    this.#fetch = options.fetch ?? ((...request) => fetch(...request));
  }

  /** The answer to a request, when it is one of success. */
  async request(method: string, path: string, body?: unknown, key?: string): Promise<Response> {
    const endMs = performance.now() + this.giveUpMs;
    const sent = body === undefined ? undefined : JSON.stringify(body);
    const headers: Record<string, string> = {};
    if (sent !== undefined) headers["Content-Type"] = "application/json";
    if (key !== undefined) headers["Idempotency-Key"] = key;
    for (let failures = 0; ; failures++) {
      try {
        return await this.#answer(method, path, headers, sent);
      } catch (error) {
        if (!(error instanceof LedgerError)) throw error;
        error.key = key;
        const waitMs = pauseMs(failures, error.refusal.retryAfterMs);
        if (!error.passes || performance.now() + waitMs > endMs) throw error;
        await sleep(waitMs);
      }
    }
  }

  /** Post items as lines of one request, and take the answer of each as it arrives. */
  async post(lines: string[], take: Take): Promise<void> {
    const headers = { "Content-Type": "application/x-ndjson" };
    const response = await this.#answer("POST", "/batches/", headers, lines.join("\n"));
    const requestId = response.headers.get("x-request-id");
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        const whole = (rest + piece.value).split("\n");
        rest = whole.pop()!;
        for (const text of whole) {
          const { line, status, body } = JSON.parse(text) as LineResult;
          take(line, { status, body, requestId, retryAfterMs: 0 });
        }
      }
    } catch (error) {
      throw noAnswer(error);
    }
  }

  async #answer(
    method: string,
    path: string,
    headers: Record<string, string>,
    body?: string,
  ): Promise<Response> {
    let response: Response;
    let said: unknown;
    try {
      response = await this.#fetch(this.#base + path, {
        method,
        headers: { ...this.#headers, ...headers },
        redirect: "manual",
        signal: AbortSignal.timeout(this.#timeoutMs),
        ...(body === undefined ? {} : { body }),
      });
      if (response.ok && response.status !== 202) return response;
      said = json(await response.text());
    } catch (error) {
      throw noAnswer(error);
    }
    const { status } = response;
    const afterMs = retryAfterMs(response.headers.get("retry-after"));
    const requestId = response.headers.get("x-request-id");
    throw errorOf({ status, body: said, requestId, retryAfterMs: afterMs });
  }
}

function json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
