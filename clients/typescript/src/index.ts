export * from "./client.js";
export { ClientClosed } from "./gathering.js";
export type { Options } from "./connection.js";
export {
  ApprovalPending,
  Conflict,
  Declined,
  Forbidden,
  Invalid,
  KeyMisused,
  LedgerError,
  NoAnswer,
  NotFound,
  PositionLost,
  RateLimited,
  Unauthenticated,
  Unavailable,
} from "./errors.js";
export type { Problem, Proposal, Retry } from "./errors.js";
export type { components } from "./api.js";
