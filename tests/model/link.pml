/* No stall is permanent: the agent's states, its tasks and its watchdog, a hub that freezes, hangs, crashes or drains, a
 * network that swallows everything. docs/explanation/model.md says what is modelled and what is not.
 *
 * `table.pml` is written by test_promela.py from agent/uplink/machine.py: the states, and for each event on_EVENT() with the
 * table's commands. The commands are what the driver (agent/uplink/link.py) does. BUG_... is a fault that a property must refute. */

mtype = { NOWHERE, THERE, QUEUED, BACK };  /* of a message and its answer: not sent, on its way, in the queue, answered */

bool up = true, frozen, hung, draining;    /* the hub: alive; stopped by a signal; takes work and finishes none; leaving */
bool open = true;                          /* the network lets packets pass */
bool twin;                                 /* another agent of the same name is about */
bool session;                              /* the hub knows our present connection */

bool socket;                               /* we have a connection, or are at it */
bool owed;                                 /* a batch waits to be sent */
mtype batch = NOWHERE, echo = NOWHERE;     /* what is out on the present connection */
bool hello, welcome, refused, superseded, holding;
bool buffers;                              /* socket buffers and the like hold packet data */
bool heard;                                /* an answer has just come */
bool told, waking, exited;                 /* told to stop; a backoff runs; the end */

#define runs (up && !frozen)
#define answers (runs && !hung && open && session)
#define good (runs && !hung && !draining && open && !twin)
#define debt (owed || batch != NOWHERE)

inline connect() { assert(!socket); socket = true; hello = true }
inline send() { skip }
inline abort() {
#ifdef BUG_POLITE
  (runs && open);                          /* an awaited close: it waits for the peer */
#endif
  disconnect() }
inline close() { disconnect() }
inline free() { unsend(); buffers = false }
inline back_off() { waking = true }
inline back_off_long() { waking = true }
inline hurry() { skip }
inline stop_capture() { skip }
inline exit() { exited = true }

inline unsend() {                          /* what was out is owed again */
  owed = owed || batch != NOWHERE;
  batch = NOWHERE; echo = NOWHERE
}

inline disconnect() { unsend(); end() }

inline end() {                             /* of a connection, by itself or by us */
  hello = false; welcome = false; refused = false; superseded = false; holding = false;
  session = false; socket = false
}

#include "table.pml"

#define linked (state == STREAMING || state == DRAINING)

ltl every_stall_ends { [] <> (!linked || answers || heard) }
ltl work_resumes { (<> [] good) -> [] (debt -> <> (!debt || exited)) }
ltl buffers_are_freed { [] ((state == BACKOFF) -> !buffers) }
ltl whoever_is_told_stops { [] (told -> <> exited) }
ltl whoever_is_told_drains { (<> [] good) -> [] (told -> <> exited) }

/* -- the agent ---------------------------------------------------------------------------------------------------- */

active proctype Receive() {
  do
  :: atomic { state == CONNECTING && welcome && open -> welcome = false; on_welcomed();
       if
#ifndef BUG_STOP_FORGOTTEN
       :: told -> on_stop()
#endif
       :: else
       fi }
  :: atomic { socket && refused && open -> end(); on_refused() }
  :: atomic { socket && superseded && open -> end(); on_superseded() }
  :: atomic { linked && batch == BACK && open -> batch = NOWHERE; heard = true }
  :: atomic { linked && echo == BACK && batch != BACK && open -> echo = NOWHERE; heard = true }
  :: heard -> heard = false
  :: atomic { linked && !session && up && open -> end(); on_lost() }           /* a reset */
  od
}

active proctype Attempt() {                /* the handshake has a deadline of its own */
  do
  :: atomic { state == CONNECTING && socket && !welcome && !refused && !superseded && (!session || !runs || !open) &&
       !(hello && good) -> end(); on_lost() }
  :: atomic { state == CONNECTING && (welcome || refused || superseded) && !open -> end(); on_lost() }
  od
}

active proctype Transmit() {
  do
  :: atomic { linked && owed && batch == NOWHERE && !holding -> owed = false; batch = THERE; buffers = true }
  od
}

active proctype Report() {
  do
  :: atomic { linked && echo == NOWHERE -> echo = THERE }
  od
}

active proctype Watchdog() {               /* a deadline passes only while the hub does not answer */
  do
#ifndef BUG_NO_PROGRESS
  :: atomic { linked && batch != NOWHERE && !answers -> on_stalled() }
#endif
#ifndef BUG_NO_ECHO
  :: atomic { linked && batch == NOWHERE && echo != NOWHERE && !answers -> on_stalled() }
#endif
  :: atomic { linked && batch == NOWHERE && !(runs && open && session) -> on_stalled() }   /* ping */
  od
}

active proctype Timer() {
  do
  :: atomic { waking && state == BACKOFF -> waking = false; on_wake() }
  od
}

active proctype Deadline() {
  do
#ifndef NO_DEADLINE
  :: atomic { told && !exited -> if :: skip; on_deadline() :: skip; on_kill() fi }
#else
  :: atomic { false -> skip }
#endif
  od
}

active proctype Capture() {
  atomic { begin() };
  do
  :: atomic { !debt && !told -> owed = true }
  :: atomic { told && !debt && state == DRAINING -> on_drained() }
  od
}

active proctype Supervisor() {             /* may say stop or kill, at any time or never */
  if
  :: skip
  :: atomic { socket -> told = true; on_stop() }
  :: atomic { state == STREAMING -> told = true; on_stop() }
  :: atomic { state == BACKOFF -> told = true; on_stop() }
  :: atomic { state != STOPPED && (socket || state != CONNECTING) -> told = true; on_kill() }
  fi
}

/* -- the hub ------------------------------------------------------------------------------------------------------ */

active proctype Listener() {
  do
  :: atomic { runs && open && hello -> hello = false;
       if
       :: draining -> refused = true
       :: else -> session = true; welcome = true
       fi }
  od
}

active proctype Session() {
  do
  :: atomic { runs && open && session && batch == THERE -> batch = QUEUED }
  :: atomic { runs && open && session && echo == THERE && batch != THERE -> echo = QUEUED }
  od
}

active proctype Writer() {
  do
  :: atomic { runs && !hung && session && batch == QUEUED -> batch = BACK }
  :: atomic { runs && !hung && session && echo == QUEUED && batch != QUEUED -> echo = BACK }
  od
}

active proctype Faults() {
  do
  :: frozen = !frozen
  :: up -> hung = !hung
  :: open = !open
  :: twin = !twin
  :: atomic { twin && session && runs -> session = false; superseded = true }
  :: atomic { session && !open -> session = false }                   /* the hub drops a silent connection */
  :: atomic { runs && !good && session && !welcome && !superseded -> session = false; refused = true }   /* or one it finds fault with */
  :: atomic { runs && !draining -> draining = true; holding = session }
  :: atomic { up -> up = false; frozen = false; hung = false; draining = false; session = false }
  :: up = true
  od
}
