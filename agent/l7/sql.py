"""The verb of an SQL statement, and nothing else of it."""

from __future__ import annotations

WORDS = """
ABORT ALTER ANALYZE BEGIN CALL CHANGE CHECK CHECKPOINT CLOSE CLUSTER COMMENT COMMIT COPY CREATE DEALLOCATE DECLARE
DELETE DESC DESCRIBE DISCARD DO DROP END EXECUTE EXPLAIN FETCH FLUSH GRANT HANDLER IMPORT INSERT INSTALL KILL LISTEN
LOAD LOCK MERGE MOVE NOTIFY OPTIMIZE PREPARE PURGE REASSIGN REFRESH REINDEX RELEASE RENAME REPAIR REPLACE RESET REVOKE
ROLLBACK SAVEPOINT SECURITY SELECT SET SHOW SHUTDOWN SIGNAL START STOP TABLE TRUNCATE UNINSTALL UNLISTEN UNLOCK UPDATE
USE VACUUM VALUES WITH XA
"""
VERBS = frozenset(WORDS.split())
LOOK = 2048
"""Bytes of a statement that are looked at: a verb behind a longer comment is not found."""


def verb(statement: bytes) -> str:
    """The first word in upper case, behind white space, comments and brackets; "" where it is none that SQL knows."""
    text, at = statement[:LOOK], 0
    while at < len(text):
        if text[at] in b" \t\r\n\f(;":
            at += 1
        elif text.startswith(b"/*", at):
            end = text.find(b"*/", at)
            at = end + 2 if end >= 0 else len(text)
        elif text.startswith(b"--", at) or text[at] == 35:
            end = text.find(b"\n", at)
            at = end + 1 if end >= 0 else len(text)
        else:
            break
    end = at
    while end < len(text) and end < at + 16 and text[end] not in b" \t\r\n\f(;*/'\"-\0":
        end += 1
    word = text[at:end].decode("ascii", "replace").upper()
    return word if word in VERBS else ""
