"""PostgreSQL: `database.py` (transactions that know their team), `queries.py` (named SQL), `migrate.py` (schema)."""
