/* A ledger moves from one shard to the other, and back, while two processes of the service post to it
   and read it. Two movers (`ledgerservice shards move`) compete.

   An atomic or d_step block is one database transaction of one server: of the directory (the database
   main), or of one shard. A mover may die after any step, and the same command goes on. It may also lose
   its session on main, and with it the advisory lock, while it and its sessions on the shards go on: then
   a second mover runs beside it. A process of the service may be stopped for any time between two of its
   steps.

   The properties are asserted where they could fail, and `settles` is checked as LTL with -DLIVENESS,
   where the faults are bounded. Each -DCANARY_... is one error of design, which the model has to find. */

/* The last generation that exists, and the last one after which a new move may begin. */
#ifdef LIVENESS
#define GENERATIONS 5
#define LAST_START 1
#else
#ifndef GENERATIONS
#define GENERATIONS 3
#endif
#define LAST_START (GENERATIONS - 1)
#endif

mtype = { ABSENT, OPEN, LEAVING, ARRIVING };

/* The directory: the row of the ledger in `homes`. The target is the shard that is not home. */
byte home = 0;
bool moving = false;
byte generation = 0;
byte runner = 0;                /* who holds the mover's advisory lock; 0 is nobody */

/* Shard s: its row in `fences`, with the trigger; the keys that the ledger has there, as bits; and the
   transactions in flight that have passed the trigger. */
mtype fence[2] = { OPEN, ABSENT };
byte fenced[2];                 /* the generation that set the fence, or lifted it */
byte rows[2];
byte flying[2];
bool queued[2];                 /* CREATE TRIGGER waits for its lock; whoever comes later waits behind it */

/* Process p of the service: the home that it knows. NOWHERE is a directory older than its limit. */
#define NOWHERE 2
byte known[2];

byte posted = 0;                /* the keys that any shard has committed */

#ifdef LIVENESS
#define FAULT faults > 0 -> faults--
byte faults = 2;
#else
#define FAULT true
#endif

#define BIT(p) (1 << (p))
#define NOTHING_LOST assert((posted & ~rows[home]) == 0)
#ifdef CANARY_NO_FENCE
#define ONE_HOME true           /* so that what is lost is found */
#else
#define ONE_HOME assert(!(fence[0] == OPEN && fence[1] == OPEN) && fence[1 - home] != OPEN)
#endif

/* What a process of the service reads from the directory, every second. */
#define LEARN(p) atomic { known[p] = home }

/* A process of the service that posts. */
active proctype Writer() {
    byte where = NOWHERE, key = 0;
begin:
    if
    :: LEARN(0); goto begin
    :: atomic { known[0] != NOWHERE -> where = known[0] };
        atomic {                        /* the INSERT of a batch */
            !queued[where] ->
            if
            :: fence[where] == OPEN -> flying[where]++
            :: else -> where = NOWHERE; goto begin
            fi;
            if
            :: true
            :: key = 1
            fi
        };
        atomic {                        /* its COMMIT, or the end of its session */
            flying[where]--;
            if
            :: rows[where] = rows[where] | BIT(key); posted = posted | BIT(key)
            :: FAULT
            fi;
            NOTHING_LOST;
            where = NOWHERE; key = 0;
            goto begin
        }
    fi
}

#ifndef LIVENESS
/* A process of the service that reads. An answer has all that was posted before the request. */
active proctype Reader() {
    byte where = NOWHERE, noted = 0;
begin:
    if
    :: LEARN(1); goto begin
    :: atomic { known[1] != NOWHERE -> where = known[1]; noted = posted };
        atomic {
            if
#ifdef CANARY_READ_UNCHECKED
            :: true -> assert((noted & ~rows[where]) == 0)
#else
            :: known[1] == where -> assert((noted & ~rows[where]) == 0)
            :: else                     /* the directory is another or too old now: 503 */
#endif
            fi;
            where = NOWHERE; noted = 0;
            goto begin
        }
    fi
}
#endif

inline forget() {
    g = 0; to = 0; read = 0
}

inline fault() {
    if
    :: true
    :: FAULT; if :: runner == _pid -> runner = 0 :: else fi; forget(); goto begin    /* kill -9 */
    :: FAULT; if :: runner == _pid -> runner = 0 :: else fi                          /* the lock is lost */
    fi
}

inline leave() {
    if :: runner == _pid -> runner = 0 :: else fi; forget(); goto begin
}

#ifdef CANARY_STEPS_UNCHECKED
#define OLDER(s) true
#define SAME(s) true
#else
#define OLDER(s) (fenced[s] < g)
#define SAME(s) (fenced[s] == g)
#endif

/* The time passes after which no process uses a directory from before. */
inline wait_for_directories() {
#ifdef CANARY_THAW_EARLY
    skip
#else
    d_step {
        if :: known[0] != to -> known[0] = NOWHERE :: else fi;
        if :: known[1] != to -> known[1] = NOWHERE :: else fi
    }
#endif
}

inline copy() {
    d_step { read = rows[1 - to] };
    atomic {
        if
        :: fence[to] == ARRIVING && SAME(to) -> rows[to] = rows[to] | read; read = 0
        :: else -> leave()
        fi;
        fault()
    }
}

active [2] proctype Mover() {
    byte g = 0, to = 0, read = 0;
begin:
end:
    atomic {
        runner == 0 && (generation < GENERATIONS || !moving) -> runner = _pid;
        if
        :: moving ->                    /* goes on with what another run has begun */
#ifndef CANARY_COPY_AGAIN
            generation++;
#endif
            g = generation; to = 1 - home; fault(); goto arrive
        :: else -> g = generation; to = home; fault()
        fi
    };
settle:                                 /* to is home, and no move is under way */
    if
    :: fence[to] == OPEN && fenced[to] >= g
    :: else ->
        wait_for_directories();
        atomic {
            if
#ifdef CANARY_ABORT_KEEPS_FENCE
            :: fence[to] == ARRIVING && SAME(to) ->
#else
            :: fence[to] != ABSENT && (OLDER(to) || (SAME(to) && fence[to] == ARRIVING)) ->
#endif
                fence[to] = OPEN; fenced[to] = g; ONE_HOME
            :: else
            fi;
            fault()
        }
    fi;
    if
    :: atomic { true ->                 /* 1: a new move */
        if
        :: generation == g && !moving && g < LAST_START -> moving = true; generation++;
            g = generation; to = 1 - home; fault()
        :: else -> leave()
        fi
    }
    :: atomic { true -> leave() }
    fi;
arrive:
    if
    :: atomic { true ->                 /* --abort: first in the directory */
        if
        :: generation == g && moving && g < GENERATIONS -> moving = false; generation++; g = generation; fault()
        :: else -> leave()
        fi
    };
        atomic {                        /* then the copy is dropped */
            if
            :: fence[to] == ARRIVING && OLDER(to) -> fence[to] = ABSENT; fenced[to] = g; rows[to] = 0; NOTHING_LOST
            :: else
            fi;
            to = 1 - to;
            fault()
        };
        goto settle
    :: atomic { true ->                 /* 2: the target's fence; a former home's old copy is removed */
        if
        :: OLDER(to) || (SAME(to) && fence[to] == ARRIVING) ->
#ifdef CANARY_COPY_AGAIN
            rows[to] = 0;
#else
            if :: fence[to] == LEAVING -> rows[to] = 0 :: else fi;
#endif
            fence[to] = ARRIVING; fenced[to] = g; NOTHING_LOST
        :: else -> leave()
        fi;
        fault()
    }
    fi;
    copy();                             /* 3: beforehand */
#ifndef CANARY_NO_FENCE
    atomic { queued[1 - to] = true };
    atomic {                            /* 4: the source's fence, which waits for what is in flight */
        if
#ifdef CANARY_FENCE_AT_ONCE
        :: OLDER(1 - to) || (SAME(1 - to) && fence[1 - to] == LEAVING) ->
#else
        :: (OLDER(1 - to) || (SAME(1 - to) && fence[1 - to] == LEAVING)) && flying[1 - to] == 0 ->
#endif
            queued[1 - to] = false; fence[1 - to] = LEAVING; fenced[1 - to] = g; fault()
#ifndef CANARY_STEPS_UNCHECKED
        :: fenced[1 - to] > g || (SAME(1 - to) && fence[1 - to] != LEAVING) -> queued[1 - to] = false; leave()
#endif
        fi
    };
#endif
    copy();                             /* 5: the rest */
    d_step { read = rows[1 - to] };     /* 6: the proof */
    atomic {
        if
        :: (read & ~rows[to]) == 0
        :: else -> leave()
        fi;
        fault()
    };
    atomic {                            /* 8: the commit point */
        if
#ifdef CANARY_FLIP_UNCHECKED
        :: true ->
#else
        :: generation == g && moving ->
#endif
            home = to; moving = false; NOTHING_LOST; fault()
        :: else -> leave()
        fi
    };
    goto settle                         /* 9 */
}

#ifdef LIVENESS
/* The ledger is open at its home in the end. */
ltl settles { <> [] (fence[home] == OPEN) }
#endif
