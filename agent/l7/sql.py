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
IGNORED = b" \t\r\n\f(;"
STOPS = frozenset(b" \t\r\n\f(;*/'\"-\0")
LOOK = 2048
"""Bytes of a statement that are looked at: a verb behind a longer comment is not found."""


def verb(statement: bytes) -> str:
    """The first word in upper case, behind white space, comments and brackets; "" where it is none that SQL knows."""
    text = statement[:LOOK].lstrip(IGNORED)
    while text.startswith((b"/*", b"--", b"#")):
        stop = b"*/" if text.startswith(b"/*") else b"\n"
        text = text.partition(stop)[2].lstrip(IGNORED)
    size = 0
    while size < min(len(text), 16) and text[size] not in STOPS:
        size += 1
    word = text[:size].decode("ascii", "replace").upper()
    return word if word in VERBS else ""
