"""Tasks: the life of a piece of work, from `POST /tasks` to its result.

Start with `service.py` (what a client can do), `dispatcher.py` (who runs it) and `attempt.py` (one try, from
claim to finish). `kind.py` says what a task type is, `command.py` is the base of all types, `model.py` has the
words. The steps that the database decides are functions in the migrations: `claim`, `finish`, `progress`, `log_lines`.
"""
