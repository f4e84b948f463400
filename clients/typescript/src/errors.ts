// The errors of the client: a class for each family of codes.
import type { components } from "./api.js";

export type Problem = components["schemas"]["ProblemDetails"];
export type Proposal = components["schemas"]["Proposal"];
export type Retry = Problem["retry"];

/** An answer that is not the requested one; status 0: none arrived. */
export interface Refusal {
  status: number;
  /** What its JSON says; undefined if it is not JSON. */
  body: unknown;
  requestId: string | null;
  retryAfterMs: number;
}

/** A call did not end as requested. `problem` has all members of the service's answer. */
export class LedgerError extends Error {
  /** The idempotency key of the call. */
  key: string | undefined;

  constructor(
    readonly code: string,
    readonly detail: string,
    readonly retry: Retry,
    readonly refusal: Refusal,
    readonly problem?: Problem,
  ) {
    super(`${code}: ${detail}`);
    this.name = new.target.name;
  }

  get status(): number {
    return this.refusal.status;
  }

  get requestId(): string | null {
    return this.refusal.requestId;
  }

  /** The first field at fault. */
  get field(): string | undefined {
    return this.problem?.errors?.[0]?.field;
  }

  /** Whether the same request with the same key is worth sending again. */
  get passes(): boolean {
    return this.retry === "same_key" && this.code !== "key_not_found";
  }
}

/** The state of an account does not allow it. It is recorded; `problem.decided_on` has the state. */
export class Declined extends LedgerError {}
/** The request is not valid; `problem.errors` has the fields. */
export class Invalid extends LedgerError {}
/** The request names what does not exist. */
export class NotFound extends LedgerError {}
/** The idempotency key is not valid, or belongs to a different request. */
export class KeyMisused extends LedgerError {}
/** The key of the API is missing or not valid, or a signature is needed. */
export class Unauthenticated extends LedgerError {}
/** The key of the API does not allow it. */
export class Forbidden extends LedgerError {}
/** The request conflicts with what exists. */
export class Conflict extends LedgerError {}
/** The position in the feed is of an epoch that has ended; `problem.compare_from`. */
export class PositionLost extends LedgerError {}
/** The service could not answer in time. The same call with the same key is safe. */
export class Unavailable extends LedgerError {}
/** The key of the API has used what its limits let it use. */
export class RateLimited extends Unavailable {}
/** No answer arrived in time: whether it was posted is not known. */
export class NoAnswer extends Unavailable {}

/** Others have to approve it; nothing was moved yet. */
export class ApprovalPending extends LedgerError {
  constructor(
    readonly proposal: Proposal,
    refusal: Refusal,
  ) {
    super("approval_pending", "Others have to approve it.", "corrected", refusal);
  }
}

const BY_STATUS = new Map<number, typeof LedgerError>([
  [401, Unauthenticated],
  [403, Forbidden],
  [404, NotFound],
  [408, Unavailable],
  [409, Conflict],
  [410, PositionLost],
  [421, Forbidden],
  [429, RateLimited],
  [501, Invalid],
]);

function familyOf(code: string, status: number, retry: Retry): typeof LedgerError {
  if (retry === "new_key") return Declined;
  if (code.startsWith("idempotency_key_")) return KeyMisused;
  return BY_STATUS.get(status) ?? (status >= 500 ? Unavailable : Invalid);
}

/** The error of an answer. One that is not the service's goes by its status. */
export function errorOf(refusal: Refusal): LedgerError {
  const { status, body } = refusal;
  if (status === 202) return new ApprovalPending(body as Proposal, refusal);
  const problem = problemOf(body);
  const passes = status === 408 || status === 429 || status >= 500;
  const code = problem?.code ?? `http_${status}`;
  const retry = problem?.retry ?? (passes ? "same_key" : "corrected");
  const detail = problem?.detail ?? `The answer ${status} is not from the service.`;
  return new (familyOf(code, status, retry))(code, detail, retry, refusal, problem);
}

export function noAnswer(cause: unknown): NoAnswer {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const refusal = { status: 0, body: undefined, requestId: null, retryAfterMs: 0 };
  return new NoAnswer("no_answer", `No answer arrived (${reason}).`, "same_key", refusal);
}

function problemOf(body: unknown): Problem | undefined {
  const problem = body as Partial<Problem> | null | undefined;
  const isOne = typeof problem?.code === "string" && typeof problem.retry === "string";
  return isOne ? (problem as Problem) : undefined;
}

/** The milliseconds of Retry-After, which is a number of seconds or a date. */
export function retryAfterMs(value: string | null): number {
  if (value === null) return 0;
  if (/^\d+$/.test(value)) return Number(value) * 1_000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? 0 : Math.max(0, date - Date.now());
}

/** The pause before the next try; a part is random, so that many clients do not come together. */
export function pauseMs(failures: number, atLeastMs = 0): number {
  const mostMs = Math.min(2_000, 50 * 2 ** Math.min(failures, 10));
  return atLeastMs + mostMs * (0.5 + Math.random() / 2);
}

export const sleep = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, ms));
