// The client of a ledger.
import type { components } from "./api.js";
import { Connection } from "./connection.js";
import type { Options } from "./connection.js";
import { NotFound } from "./errors.js";
import { Gathering } from "./gathering.js";

type Schemas = components["schemas"];
/** An exact amount in major units. A number is refused: it need not be exact. */
export type Amount = string | bigint;
type Exact<T> = T extends (infer E)[]
  ? Exact<E>[]
  : T extends object
    ? { [K in keyof T]: K extends AmountName ? Amount | Extract<T[K], undefined> : Exact<T[K]> }
    : T;
type AmountName = "amount" | "available_at_least" | "balance_at_least" | "rate" | "sold";
/** The body of a route. Without `idempotency_key` a call gets a new one. */
export type Body<T> = Exact<Omit<T, "type" | "idempotency_key">> & { idempotency_key?: string };
export type Account = Schemas["Account"];
export type Posted = Schemas["Posted"];
export type Transaction = Schemas["Transaction"];
export type HistoryEntry = Schemas["HistoryEntry"];
export type Hold = Schemas["Hold"];
export type LedgerEvent = Schemas["EventAnswer"];
export type Params = Record<string, string | number | boolean | undefined>;

export interface CallOptions {
  /** Ends the waiting of this call. Whether it was posted is then not known. */
  signal?: AbortSignal;
}

const AMOUNTS = new Set(["amount", "available_at_least", "balance_at_least", "rate", "sold"]);
const EVENTS_WAIT_S = 20;

export class LedgerClient {
  readonly #connection: Connection;
  readonly #gathering: Gathering;

  constructor(url: string, options: Options = {}) {
    this.#connection = new Connection(url, options);
    this.#gathering = new Gathering(this.#connection, options.queueLimit ?? 10_000);
  }

  /** Wait for the answers of all movements that were called. */
  async close(): Promise<void> {
    await this.#gathering.close();
  }

  deposit(body: Body<Schemas["Deposit"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("DEPOSIT", body, options);
  }

  withdraw(body: Body<Schemas["Withdrawal"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("WITHDRAWAL", body, options);
  }

  transfer(body: Body<Schemas["Transfer"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("TRANSFER", body, options);
  }

  /** A transaction of 2 to 500 legs. */
  post(body: Body<Schemas["PostTransaction"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("TRANSACTION", body, options);
  }

  /** Reserve an amount. The `transaction_id` of the answer is the id of the hold. */
  hold(body: Body<Schemas["PlaceHold"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("HOLD", body, options);
  }

  capture(body: Body<Schemas["CaptureHoldItem"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("CAPTURE", body, options);
  }

  release(body: Body<Schemas["ReleaseHoldItem"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("RELEASE", body, options);
  }

  reverse(body: Body<Schemas["ReverseTransactionItem"]>, options?: CallOptions): Promise<Posted> {
    return this.#post("REVERSAL", body, options);
  }

  /** Open an account. A key or a reference opens one account only. */
  async openAccount(body: Schemas["OpenAccount"], key = newKey()): Promise<Account> {
    return this.request("POST", "/accounts/", body, key);
  }

  account(id: number, params: Params = {}): Promise<Account> {
    return this.request("GET", `/accounts/${id}${query(params)}`);
  }

  transaction(id: number): Promise<Transaction> {
    return this.request("GET", `/transactions/${id}`);
  }

  getHold(id: number): Promise<Hold> {
    return this.request("GET", `/holds/${id}`);
  }

  /** What became of a key of an account. undefined: nothing is recorded yet. */
  async outcome(accountId: number, key: string): Promise<Transaction | undefined> {
    try {
      return await this.request("GET", `/accounts/${accountId}/keys/${encodeURIComponent(key)}`);
    } catch (error) {
      if (error instanceof NotFound && error.code === "key_not_found") return undefined;
      throw error;
    }
  }

  /** The entries of an account, newest first; each page is read when it is needed. */
  history(accountId: number, params: Params = {}): AsyncGenerator<HistoryEntry> {
    return this.#rows(`/accounts/${accountId}/history`, params);
  }

  transactions(params: Params = {}): AsyncGenerator<Transaction> {
    return this.#rows("/transactions/", params);
  }

  accounts(params: Params = {}): AsyncGenerator<Account> {
    return this.#rows("/accounts/", params);
  }

  /**
   * What is recorded after the event `after`, for ever, over restarts of the service; or to the
   * present end without `follow`. Begin again with the `id` of the last event.
   */
  async *events(params: Params = {}, { follow = true } = {}): AsyncGenerator<LedgerEvent> {
    const wait = follow ? { wait_s: EVENTS_WAIT_S } : {};
    for (let after = params["after"]; ; ) {
      const path = `/events${query({ limit: 1_000, ...params, ...wait, after })}`;
      const page = await this.request<Schemas["Events"]>("GET", path);
      yield* page.events;
      // A page can be empty before the end, if what was read is left out by the parameters.
      if (!follow && page.events.length === 0 && page.next === after) return;
      after = page.next;
    }
  }

  /** The JSON of any other route below the ledger, with the same retries and errors. */
  async request<T>(method: string, path: string, body?: unknown, key?: string): Promise<T> {
    const response = await this.#connection.request(method, path, body, key);
    return (await response.json()) as T;
  }

  async #post(type: string, body: object, options: CallOptions = {}): Promise<Posted> {
    const key = (body as { idempotency_key?: string }).idempotency_key ?? newKey();
    const line = JSON.stringify({ ...body, type, idempotency_key: key }, exact);
    return (await this.#gathering.post(line, key, options.signal)) as Posted;
  }

  async *#rows<T>(path: string, params: Params): AsyncGenerator<T> {
    for (let next: string | undefined = path + query(params); next !== undefined; ) {
      const response = await this.#connection.request("GET", next);
      yield* (await response.json()) as T[];
      const link = /<[^>]*?(\?[^>]*)>; rel="next"/.exec(response.headers.get("link") ?? "");
      next = link === null ? undefined : path + link[1];
    }
  }
}

/** A key that no other call has. */
function newKey(): string {
  return crypto.randomUUID();
}

function query(params: Params): string {
  const there = Object.entries(params).filter(([, value]) => value !== undefined);
  const texts = new URLSearchParams(there.map(([name, value]) => [name, String(value)]));
  return there.length > 0 ? `?${texts}` : "";
}

/** Amounts as text. Throws a TypeError for a number, which need not be exact. */
function exact(name: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (AMOUNTS.has(name) && typeof value === "number") {
    throw new TypeError(`${name} is text or a bigint, not a number`);
  }
  return value;
}
