/* Exactly once, as protocol/delivery.py and hub/ingest do it: N batches, two hubs with a store each, connections that
 * break. docs/explanation/model.md says what is modelled and what is not; test_promela.py runs it.
 *
 * Sets of batches are bit sets: a pipe is read in any order, which is more than a connection does. Before `calm` each
 * step does any part of what it could do; after it all of it, and nothing breaks any more. BUG_... is a fault that a
 * property must refute. */

#ifndef N
#define N 2
#endif
#define ALL ((1 << N) - 1)

byte fresh = ALL, sent, doubt, done;     /* the agent's batches, each in one: never sent, sent, in doubt, acknowledged */
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
#define stored (lines[0] | lines[1] | tombs[0] | tombs[1])

ltl acknowledged_is_stored { [] ((done & ~stored) == 0) }
ltl stored_once { [] (!twice) }
ltl all_is_settled { (<> calm) -> (<> (done == ALL)) }

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

inline acknowledged(set) {
  done = done | ((set) & (fresh | sent | doubt));
  fresh = fresh & ~done; sent = sent & ~done; doubt = doubt & ~done
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

active proctype Link() {
  byte b, chosen;
  do
  :: atomic { !connected && done != ALL && (up[0] || second) ->
       if
       :: up[0] -> hub = 0
#ifndef ONE_HUB
       :: up[1] -> hub = 1
#endif
       fi;
       connected = true; session = true;
       acknowledged(held[hub]) }         /* the welcome's positions */
  :: atomic { connected && acking -> acknowledged(ack); acking = false; ack = 0 }
  :: atomic { connected && (!session || !calm) -> break_off() }
  od
}

active proctype Transmit() {
  byte b, chosen;
  do
  :: atomic { connected && (fresh | (doubt & mine)) ->  /* in doubt: only to the store that may hold it */
       some(chosen);
       chosen = chosen & (fresh | (doubt & mine));
       pipe[hub] = pipe[hub] | (chosen & ~tomb);
       pipe_tomb[hub] = pipe_tomb[hub] | (chosen & tomb);
       sent = sent | chosen; fresh = fresh & ~chosen; doubt = doubt & ~chosen;
       chosen = 0 }
  :: atomic { connected && (doubt & ~mine) ->           /* patience with the other store is over */
#ifndef BUG_DOUBT_ANYWHERE
       tomb = tomb | (doubt & ~mine);
#endif
       fresh = fresh | (doubt & ~mine); doubt = doubt & mine }
  :: atomic { !calm && (fresh & ~tomb) ->               /* the outbox is full */
       some(chosen);
#ifdef BUG_NO_TOMBSTONE
       fresh = fresh & ~(chosen & ~tomb);
#else
       tomb = tomb | (chosen & fresh);
#endif
       chosen = 0 }
  od
}

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
       stage[me] = 1 }
  :: atomic { up[me] && stage[me] == 1 ->
       lines[me] = lines[me] | writing[me]; tombs[me] = tombs[me] | writing_tomb[me];
       stage[me] = 2 }
  :: atomic { up[me] && stage[me] == 2 ->
       held[me] = held[me] | writing[me] | writing_tomb[me];
       queued[me] = queued[me] & ~writing[me]; queued_tomb[me] = queued_tomb[me] & ~writing_tomb[me];
       writing[me] = 0; writing_tomb[me] = 0;
       tell();
       stage[me] = 0 }
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
