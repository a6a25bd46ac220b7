"""What is wrong and what to do about it: numbers in, findings out.

Lives here: the tables of checks, each a pure function from facts to a finding, and the hub's own facts. May not live
here: asking agents (`hub.fanout`), printing (`hub.cli.doctor`).
"""
