/* Exactly once, as protocol/delivery.py, agent/spool and hub/ingest do it: N batches, two hubs with a store each,
 * connections that break, either side crashes. docs/explanation/model.md says what is modelled and what is not;
 * test_promela.py runs it.
 *
 * Sets of batches are bit sets: a pipe is read in any order, which is more than a connection does. Before `calm` each
 * step does any part of what it could do; after it all of it, and nothing breaks any more. BUG_... is a fault that a
 * property must refute. */

#ifndef N
#define N 2
#endif
#define ALL ((1 << N) - 1)

byte fresh = ALL, sent, doubt, done;     /* the agent's batches, each in one: never sent, sent, in doubt, acknowledged */
byte gone;                               /* what a crash of the agent took */
byte at1;                                /* of those in doubt: which are hub 1's, the others are hub 0's */
byte tomb;                               /* of which only a tombstone is left */
bool connected, session;                 /* what the agent has of a connection, and what its hub has */
byte hub;                                /* where it goes */
bool acking;
byte ack;                                /* what the acknowledgement under way holds */
bool calm;

byte pipe[2], pipe_tomb[2];              /* sent on the present connection and not read */
byte late[2], late_tomb[2];              /* sent on one that broke: arrives at any time */
byte queued[2], queued_tomb[2];          /* taken by the hub */
byte writing[2], writing_tomb[2];        /* of them: what the writer has in hand */
byte stage[2];                           /* of the writer: 0 nothing in hand, 1 rows are written, 2 lines are */
byte held[2];                            /* what the hub's memory says is on disk */
byte rows[2], lines[2], tombs[2];        /* the disk: rows, the lines that name them, tombstones */
bool up[2] = true;
bool twice;                              /* rows went to a disk although they were on one, here or at the other hub */

#ifdef ONE_HUB
#define second false
#else
#define second up[1]
#endif
#define mine (hub == 1 -> at1 : ~at1)
#define owed (fresh | sent | doubt)
#define stored (lines[0] | lines[1] | tombs[0] | tombs[1])

#ifdef SPOOL
byte copy, copy_tomb;                    /* the agent's disk: batches, and which of them are tombstones */
byte mark, mark1;                        /* which it says may be in a store, and that it is hub 1's */
byte covered, copying;                   /* of what is owed: which has a valid copy, which is being copied */
byte record, record_tomb, record_mark, record_mark1;     /* the write under way */
#define marked (mark & (hub == 1 -> mark1 : ~mark1))
#ifdef BUG_MARK_KEPT
#define free_to_go (~(covered | copying) | marked)
#elif defined(BUG_NO_MARK)
#define free_to_go ALL
#else
#define free_to_go (~(covered | copying) | (covered & marked))
#endif
#else
#define free_to_go ALL
#endif
#define sendable ((fresh | (doubt & mine)) & free_to_go) /* in doubt: only to the store that may hold it */

ltl acknowledged_is_stored { [] ((done & ~stored) == 0) }
ltl stored_once { [] (!twice) }
ltl rows_or_tombstone { [] ((rows[0] & tombs[0]) == 0 && (rows[1] & tombs[1]) == 0) }
ltl all_is_settled { (<> calm) -> (<> ((done | gone) == ALL)) }

inline some(set) {                       /* any part of all batches; all of them once it is calm */
  set = (calm -> ALL : 0);
  b = (calm -> N : 0);
  do
  :: b < N ->
     if
     :: set = set | (1 << b)
     :: skip
     fi;
     b++
  :: else -> break
  od;
  b = 0
}

/* -- the agent ---------------------------------------------------------------------------------------------------- */

inline acknowledged(set) {
  done = done | (set);
  fresh = fresh & ~done; sent = sent & ~done; doubt = doubt & ~done;
  uncover(done)
}

inline bury(set) {
  tomb = tomb | (set);
  uncover(set)
}

inline uncover(set) {                    /* its copy, if any, is of no more use */
#ifdef SPOOL
  covered = covered & ~(set); copying = copying & ~(set)
#else
  skip
#endif
}

inline break_off() {
  some(chosen);                          /* what was under way arrives later, or some of it never does */
  late[hub] = late[hub] | (pipe[hub] & chosen);
  late_tomb[hub] = late_tomb[hub] | (pipe_tomb[hub] & chosen);
  pipe[hub] = 0; pipe_tomb[hub] = 0;
  connected = false; session = false; acking = false; ack = 0;
#ifdef BUG_FORGET_DOUBT
  fresh = fresh | sent;
#else
  doubt = doubt | sent;
  at1 = (hub == 1 -> at1 | sent : at1 & ~sent);
#endif
  sent = 0; chosen = 0
}

inline restart() {
#ifdef SPOOL
  gone = gone | (owed & ~copy);
  done = done & ~copy; fresh = copy & ~mark; doubt = copy & mark; at1 = doubt & mark1;
  tomb = copy_tomb; covered = copy; copying = 0;
  record = 0; record_tomb = 0; record_mark = 0; record_mark1 = 0
#else
  gone = gone | owed; fresh = 0; doubt = 0; at1 = 0; tomb = 0
#endif
}

active proctype Link() {
  byte b, chosen;
  do
  :: atomic { !connected && owed && (up[0] || second) ->
       if
       :: up[0] -> hub = 0
#ifndef ONE_HUB
       :: up[1] -> hub = 1
#endif
       fi;
       connected = true; session = true;
       acknowledged(held[hub] & owed) }  /* the welcome's positions */
  :: atomic { connected && acking -> acknowledged(ack & sent); acking = false; ack = 0 }
  :: atomic { connected && (!session || !calm) -> break_off() }
  :: atomic { !calm && !connected && owed -> restart() }                /* kill -9, perhaps right after a break */
  od
}

active proctype Transmit() {
  byte b, chosen;
  do
  :: atomic { connected && sendable ->
       some(chosen);
       chosen = chosen & sendable;
       pipe[hub] = pipe[hub] | (chosen & ~tomb);
       pipe_tomb[hub] = pipe_tomb[hub] | (chosen & tomb);
       sent = sent | chosen; fresh = fresh & ~chosen; doubt = doubt & ~chosen;
       chosen = 0 }
  :: atomic { connected && (doubt & ~mine) ->           /* patience with the other store is over */
       chosen = doubt & ~mine;
#ifndef BUG_DOUBT_ANYWHERE
       bury(chosen);
#endif
       fresh = fresh | chosen; doubt = doubt & ~chosen;
       chosen = 0 }
  :: atomic { !calm && (fresh & ~tomb) ->               /* the outbox is full */
       some(chosen);
       chosen = chosen & fresh & ~tomb;
#ifdef BUG_NO_TOMBSTONE
       fresh = fresh & ~chosen;
#else
       bury(chosen);
#endif
       chosen = 0 }
  od
}

#ifdef SPOOL
inline begin_copy(set) {
  record = set;
  record_tomb = record & tomb;
  record_mark = record & ~fresh;
  record_mark1 = record_mark & ((sent & (hub == 1 -> ALL : 0)) | (doubt & at1));
  covered = covered & ~record; copying = record;
  chosen = 0
}

active proctype Spooler() {
  byte b, chosen;
  do
  :: atomic { !record && (owed & ~covered) ->           /* a copy is begun */
       some(chosen);
       begin_copy(chosen & owed & ~covered) }
  :: atomic { !record && !calm && covered ->            /* the oldest file has to go: what is in it is copied once more */
       some(chosen);
       begin_copy(chosen & covered) }
  :: atomic { record ->                                 /* it is on the disk; a later record of a batch is what counts */
       copy = copy | record;
       copy_tomb = (copy_tomb & ~record) | record_tomb;
       mark = (mark & ~record) | record_mark;
       mark1 = (mark1 & ~record) | record_mark1;
       covered = covered | copying; copying = 0;
       record = 0; record_tomb = 0; record_mark = 0; record_mark1 = 0 }
  :: atomic { connected && !record && (covered & ~marked & (sent | fresh | (doubt & mine))) ->
       chosen = covered & ~marked & (sent | fresh | (doubt & mine));
       mark = mark | chosen;
       mark1 = (hub == 1 -> mark1 | chosen : mark1 & ~chosen);
       chosen = 0 }
  :: atomic { copy & ~(covered | copying) ->            /* what is not owed, or has another copy to come */
       some(chosen);
       copy = copy & ~(chosen & ~(covered | copying));
       copy_tomb = copy_tomb & copy; mark = mark & copy; mark1 = mark1 & copy;
       chosen = 0 }
  od
}
#endif

/* -- the hubs ----------------------------------------------------------------------------------------------------- */

inline tell() {
  if
  :: connected && session && hub == me -> acking = true; ack = held[me]
  :: else
  fi
}

inline take(from, into) {
  some(chosen);
  chosen = chosen & from;
  from = from & ~chosen;
  if
  :: chosen & held[me] -> tell()
  :: else
  fi;
#ifdef BUG_NO_DEDUPE
  into = into | chosen;
#else
  into = into | (chosen & ~(held[me] | queued[me] | queued_tomb[me]));
#endif
#ifdef BUG_ACK_EARLY
  held[me] = held[me] | into;
  tell();
#endif
  chosen = 0
}

inline name_rows() {
  lines[me] = lines[me] | writing[me]; tombs[me] = tombs[me] | writing_tomb[me]
}

inline settle() {
  held[me] = held[me] | writing[me] | writing_tomb[me];
  queued[me] = queued[me] & ~writing[me]; queued_tomb[me] = queued_tomb[me] & ~writing_tomb[me];
  writing[me] = 0; writing_tomb[me] = 0;
  tell()
}

proctype Hub(byte me) {
  byte b, chosen;
  do
  :: atomic { up[me] && pipe[me] && session && hub == me -> take(pipe[me], queued[me]) }
  :: atomic { up[me] && pipe_tomb[me] && session && hub == me -> take(pipe_tomb[me], queued_tomb[me]) }
  :: atomic { up[me] && late[me] -> take(late[me], queued[me]) }
  :: atomic { up[me] && late_tomb[me] -> take(late_tomb[me], queued_tomb[me]) }
  :: atomic { up[me] && stage[me] == 0 && (queued[me] | queued_tomb[me]) ->
       writing[me] = queued[me]; writing_tomb[me] = queued_tomb[me];
       twice = twice || (writing[me] & (rows[0] | rows[1])) != 0;
       rows[me] = rows[me] | writing[me];
#ifdef SPOOL
       name_rows(); settle() }                          /* and nothing comes between: this hub does not crash */
#else
       stage[me] = 1 }
  :: atomic { up[me] && stage[me] == 1 -> name_rows(); stage[me] = 2 }
  :: atomic { up[me] && stage[me] == 2 -> settle(); stage[me] = 0 }
  :: atomic { up[me] && !calm ->                        /* kill -9, between any two steps */
       up[me] = false; stage[me] = 0; held[me] = 0;
       queued[me] = 0; queued_tomb[me] = 0; writing[me] = 0; writing_tomb[me] = 0;
       pipe[me] = 0; pipe_tomb[me] = 0; late[me] = 0; late_tomb[me] = 0;
       if
       :: hub == me -> session = false
       :: else
       fi }
  :: atomic { !up[me] ->
#ifndef BUG_NO_RECOVERY
       lines[me] = lines[me] | rows[me];                /* rows whose lines a crash took: they get them at open */
#endif
       held[me] = lines[me] | tombs[me];
       up[me] = true }
#endif
  od
}

init {
  atomic {
    run Hub(0);
#ifndef ONE_HUB
    run Hub(1)
#endif
  };
  calm = true                                           /* at some time, or never */
}
