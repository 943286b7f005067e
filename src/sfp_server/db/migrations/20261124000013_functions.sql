-- Nobody may call a function of the schema merely because nobody said otherwise: people who come through PostgREST could
-- call it too. What was open to everybody is open to the services alone. (A later migration that makes a function says
-- who may call it: `test_rights_tables.py`.)

SET lock_timeout = '5s';
SET ROLE sfp_migrator;

DO $$
DECLARE
  of_all   regprocedure;
  services text := (SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles
                     WHERE rolname LIKE 'sfp\_%' AND has_schema_privilege(oid, 'sfp', 'USAGE'));
BEGIN
  FOR of_all IN
    SELECT oid FROM pg_proc
     WHERE pronamespace = 'sfp'::regnamespace
       AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)
  LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', of_all);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', of_all, services);
  END LOOP;
END $$;

RESET ROLE;
