/* A transfer between two shards: a hold on the source, a credit on the destination, then the capture
   or the release of the hold.

   An atomic or d_step block is one database transaction of one shard. A process may die after any of
   them, and so the answer of any of them may be lost; what a process knows is in its local variables,
   may be old, and dies with it. Two requests have the same key (the second is sent again after a 503),
   and the sweeper works beside them. The first account has money for one debit, and another debit
   competes for it. It may be frozen at any time. A destination may decline for any reason.
   With -DTRANSFERS=2 a second transfer goes the other way, and may spend what the first one brought.

   The properties are asserted after each transaction (`judge`), and `ends` is checked as LTL with
   -DLIVENESS, where the number of deaths is bounded. Each -DCANARY_... is one error of design, which
   the model has to find. */

#ifndef TRANSFERS
#define TRANSFERS 1
#endif

mtype = { NONE, OPEN, POSTED, DECLINED, CAPTURED, RELEASED };

/* Transfer t has its source on shard t and its destination on the other one; shard s has one account
   of customers, and clearing accounts. */
#define SOURCE(t) t
#define DESTINATION(t) (1 - t)

mtype hold[TRANSFERS] = NONE;   /* the transaction with the caller's key, then its end (x:<hold>:end) */
mtype credit[TRANSFERS] = NONE; /* the recorded outcome of the key x:<source part>:<hold> */
byte available[2] = { 1, 0 };   /* of the account of shard s */
byte cleared[2];                /* what the clearing accounts of s got by captures */
byte paid[2];                   /* what the clearing accounts of s gave by credits */
bool spent = false;             /* the competing debit is posted */
bool frozen = false;            /* the account of shard 0, for debits */
bool stuck = false;             /* the key of an end has a declined outcome: only by a canary */

mtype answer[TRANSFERS] = NONE; /* the first answer that the caller got */

#ifdef LIVENESS
#define DEATH deaths > 0 -> deaths--
byte deaths = 2;
#else
#define DEATH true
#endif

#define ON_ITS_WAY(t) (hold[t] == OPEN && credit[t] != POSTED)
#define CREDITED_AND_OPEN(t) (hold[t] == OPEN && credit[t] == POSTED)
#if TRANSFERS == 1
#define BOTH(of) of(0)
#else
#define BOTH(of) of(0) + of(1)
#endif

/* The halves of a transfer agree. */
#define AGREE(t) ((hold[t] != CAPTURED || credit[t] == POSTED) && \
    (hold[t] != RELEASED || credit[t] == DECLINED) && (hold[t] != DECLINED || credit[t] == NONE))

/* The money is there once, for one owner or the other, and the clearing accounts are equal and
   opposite but for the open holds. */
inline judge(t) {
    assert(AGREE(t));
    assert(available[0] + available[1] + spent + BOTH(ON_ITS_WAY) == 1);
    assert(cleared[SOURCE(t)] + CREDITED_AND_OPEN(t) == paid[DESTINATION(t)])
}

#define MAY_DEBIT(s) (available[s] > 0 && !(s == 0 && frozen))

/* Step 1. The key has one outcome for ever. */
inline place(t) {
    if
    :: hold[t] == NONE && MAY_DEBIT(SOURCE(t)) -> available[SOURCE(t)]--; hold[t] = OPEN
    :: hold[t] == NONE && !MAY_DEBIT(SOURCE(t)) -> hold[t] = DECLINED
    :: else
    fi;
    judge(t)
}

/* Step 2. The recorded outcome decides, and a repeat replays it. The account may be frozen, closed or
   full, and later no more: either outcome is possible as long as there is none. */
inline give(t) {
    if
    :: credit[t] == NONE -> post(t)
    :: credit[t] == NONE -> credit[t] = DECLINED
    :: credit[t] != NONE
    fi;
    outcome = credit[t];
    judge(t)
}

inline post(t) {
    credit[t] = POSTED; paid[DESTINATION(t)]++; available[DESTINATION(t)]++
}

/* Step 3. It looks at no limit of the account and not at the time. */
inline end_by(t, result) {
    if
#ifdef CANARY_ORDINARY_END
    :: hold[t] == OPEN && result == POSTED && (frozen || stuck) -> stuck = true
    :: hold[t] == OPEN && result == POSTED && !frozen && !stuck -> capture(t)
#else
    :: hold[t] == OPEN && result == POSTED -> capture(t)
#endif
    :: hold[t] == OPEN && result == DECLINED -> release(t)
    :: else
    fi;
    judge(t)
}

inline capture(t) {
    hold[t] = CAPTURED; cleared[SOURCE(t)]++
}

inline release(t) {
    hold[t] = RELEASED; available[SOURCE(t)]++
}

/* The caller gets one answer, however often and wherever it sends the request. */
inline reply(t, result) {
    assert(answer[t] == NONE || answer[t] == result);
    answer[t] = result
}

inline forget() {
    outcome = NONE; t = 0
}

inline die_or_go_on() {
    if
    :: true
    :: DEATH; forget(); goto begin
    fi
}

/* A request of the caller. After a 503, or a connection lost, it is sent again, or the caller gives
   up. A process that died starts again. */
active [2] proctype Request() {
    mtype outcome = NONE;
    byte t = 0;
begin:
    if
    :: atomic {
        if
        :: true
#if TRANSFERS == 2
        :: t = 1
#endif
        fi;
        place(t);
        if
        :: hold[t] == OPEN
        :: hold[t] == CAPTURED -> reply(t, POSTED); forget(); goto begin
        :: hold[t] == RELEASED || hold[t] == DECLINED -> reply(t, DECLINED); forget(); goto begin
        fi;
        die_or_go_on()
    }
    :: goto done
    fi;
#ifdef CANARY_CAPTURE_EARLY
    atomic { end_by(t, POSTED) };
#endif
    atomic { give(t); die_or_go_on() };
    atomic {
        end_by(t, outcome);
        die_or_go_on();
        if
        :: hold[t] != OPEN -> reply(t, outcome)
        :: else                         /* CANARY_ORDINARY_END */
        fi;
        forget()
    };
    goto begin;
done:
    skip
}

#ifndef CANARY_NO_SWEEPER
/* It reads which holds are open, and finishes them. What it read may be long over when it goes on. */
active proctype Sweeper() {
    mtype outcome = NONE;
    byte t = 0;
begin:
end:
    if
    :: hold[0] == OPEN
#if TRANSFERS == 2
    :: atomic { hold[1] == OPEN -> t = 1 }
#endif
    fi;
#ifdef CANARY_RELEASE_UNSEEN
    atomic {
        if
        :: true
        :: end_by(t, DECLINED); forget(); goto begin
        fi
    };
#endif
    atomic {
#ifdef CANARY_CREDIT_AGAIN
        post(t); outcome = POSTED; judge(t);
#else
        give(t);
#endif
        die_or_go_on()
    };
    atomic { end_by(t, outcome); forget() };
    goto begin
}
#endif

/* Other requests that change the account of shard 0. */
active proctype Others() {
    bool debit = true, freeze = true;
    do
    :: atomic { debit -> debit = false;
        if
        :: MAY_DEBIT(0) -> available[0]--; spent = true
        :: else
        fi;
        judge(0) }
    :: atomic { freeze -> freeze = false; frozen = true }
    :: atomic { frozen -> frozen = false }
#ifdef CANARY_CALLER_ENDS
    :: atomic { hold[0] == OPEN -> release(0); judge(0) }   /* an ordinary release, by its owner */
#endif
#ifdef CANARY_EXPIRY
    :: atomic { hold[0] == OPEN && credit[0] != DECLINED -> release(0); judge(0) }
#endif
    :: break
    od
}

/* `verify`, which reads the shards one after the other. What follows from a row of one shard is
   looked for on the other shard later: a capture in what the destination has then, a credit in what
   the source has then. */
active proctype Verify() {
    mtype read = NONE;
    if
    :: d_step { read = hold[0] };
        d_step {
            assert(read != CAPTURED || credit[0] == POSTED);
            assert(read != RELEASED || credit[0] == DECLINED);
#ifdef CANARY_VERIFY_BACKWARDS
            assert(credit[0] != POSTED || read == OPEN || read == CAPTURED);
#endif
            read = NONE
        }
    :: d_step { read = credit[0] };
        d_step {
            assert(read != POSTED || hold[0] == OPEN || hold[0] == CAPTURED);
            assert(read != DECLINED || hold[0] == OPEN || hold[0] == RELEASED);
            read = NONE
        }
    fi
}

#ifdef LIVENESS
/* Every open hold ends if processes go on. */
ltl ends { [] (hold[0] == OPEN -> <> (hold[0] != OPEN)) }
#endif
