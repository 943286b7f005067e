"""What each database role may do to each table, declared: `test_rights_tables.py` measures whether it is so.

A new table gets its entry here, a new policy or grant its words; how to read them: `database_rights.Table`.
"""

from database_rights import Table, ident

TABLES = {
    "application_tokens": Table(
        grants={
            "sfp_api": "SIUD",
            "sfp_dispatcher": "S(expires_at id name revoked_at team_id told) U(told)",
            "authenticated": "S(created_at created_by_name expires_at id last_used_at name revoked_at scopes team_id)",
        },
        rows={
            "api api_machine": "SIU:own",
            "api_token": "SU:own",
            "dispatcher": "S:other+own U:own",
            "owner": "S:own",
        },
    ),
    "artifacts": Table(
        grants={
            "sfp_auditor": "S",
            "sfp_api": "SID",
            "sfp_courier": "SI",
            "sfp_dispatcher": "SI",
            "authenticated": "S(attempt content_type created_at id name sha256 size task_id team_id)",
        },
        rows={
            "auditor": "S:own",
            "api api_machine": "SID:own",
            "dispatcher": "I:own S:other+own",
            "courier": "SI:other+own",
            "migrator": "SIUD:other+own",
            "member owner": "S:own",
        },
    ),
    "attempts": Table(
        grants={
            "sfp_auditor": "S",
            "sfp_api": "S",
            "sfp_broker": "S(attempt dispatcher_id lease_expires_at status task_id team_id)",
            "sfp_courier": "S(attempt dispatcher_id status task_id team_id)",
            "sfp_dispatcher": "SIU",
            "authenticated": "S(attempt ended_at error exit_code queue runtime signal started_at status task_id team_id usage)",
        },
        rows={
            "auditor": "S:own",
            "api api_machine": "S:own",
            "dispatcher": "SIU:other+own",
            "broker member owner": "S:own",
            "courier": "S:other+own",
            "migrator": "SIUD:other+own",
        },
    ),
    "audit_log": Table(
        grants={
            "sfp_api": "S I(action actor detail request_id subject tag team_id)",
            "sfp_broker": "I(action actor detail request_id subject tag team_id)",
            "sfp_auditor": "S U(attested key_id previous sealed_at seq signature team_previous team_seq)",
            "authenticated": "S(action actor at detail id subject team_id)",
        },
        rows={
            "api api_machine": "SI:none+own",
            "api_user api_token api_nobody": "I:none",
            "broker": "I:none+own",
            "broker_upkeep broker_ticket": "I:none",
            "auditor": "SU:none+other+own",
            "migrator": "I:none S:none+other+own",
            "owner": "S:own",
        },
        # what is in no team is ann's sign-in
        row={"subject": f"CASE '{{owner}}' WHEN 'None' THEN 'user:{ident('ann')}' ELSE 'x' END"},
    ),
    "authorization_codes": Table(
        grants={
            "sfp_api": "SID U(session_id used_at)",
        },
        rows={
            "api api_machine api_user": "SD:other",
            "api_token": "IU:mate SD:mate+other",
            "api_nobody": "SD:other",
        },
        row={"expires_at": "CASE '{owner}' WHEN 'beta' THEN now() - interval '1 day' ELSE now() END"},
    ),
    "browser_cookies": Table(
        grants={
            "sfp_api": "SID",
        },
        rows={
            "api_token": "SID:own",
        },
        whose="session_id",
        row={"session_id": "'{id}'"},
    ),
    "channels": Table(
        grants={
            "sfp_api": "SIU",
            "sfp_deliverer": "S",
            "sfp_dispatcher": "SIU",
            "authenticated": "S",
        },
        rows={
            "api api_machine": "SIU:own",
            "dispatcher": "IU:own S:other+own",
            "deliverer": "S:other+own",
            "migrator": "SIUD:other+own",
            "member owner": "S:own",
        },
        row={"name": "CASE '{owner}' WHEN 'acme' THEN 'task:x' ELSE 'task:y' END"},
    ),
    "device_codes": Table(
        grants={
            "sfp_api": "SID U(decided_at decided_by interval_seconds is_approved polled_at used_at)",
        },
        rows={
            "api api_machine api_user api_nobody": "SD:other",
            "api_token": "IU:own D:other S:other+own",
            "migrator": "S:other+own",
        },
        whose="address",
        row={
            "address": "'{id}'",
            "expires_at": "CASE '{owner}' WHEN 'beta' THEN now() - interval '1 day' ELSE now() END",
        },
    ),
    "dispatchers": Table(
        grants={
            "sfp_auditor": "S(id name toolchains version)",
            "sfp_api": "S",
            "sfp_broker": "S(enrolment id)",
            "sfp_courier": "S(enrolment id)",
            "sfp_dispatcher": "SIUD",
        },
        rows={
            "auditor": "S:none",
            "api api_machine api_user api_token api_nobody": "S:none",
            "dispatcher migrator": "SIUD:none",
            "broker broker_upkeep broker_ticket courier": "S:none",
        },
    ),
    "enrolments": Table(
        grants={
            "sfp_api": "S(created_at id name slots)",
            "sfp_broker": "S(id public_key)",
            "sfp_courier": "S(created_at id name role slots token_hash)",
            "sfp_dispatcher": "S(created_at id name slots)",
            "sfp_remote_steps": "S",
        },
        rows={
            "api api_machine api_user api_token api_nobody": "S:none",
            "dispatcher broker broker_upkeep broker_ticket courier remote": "S:none",
            "migrator": "SIUD:none",
        },
        row={"name": "'{owner}'"},
    ),
    "events": Table(
        grants={
            "sfp_api": "SI U(data)",
            "sfp_deliverer": "S",
            "sfp_dispatcher": "SI",
            "authenticated": "S",
        },
        rows={
            "api api_machine": "SIU:own",
            "dispatcher": "SI:own",
            "deliverer": "S:other+own",
            "migrator": "SIUD:other+own",
            "member owner": "S:own",
        },
    ),
    "held_keys": Table(
        grants={
            "sfp_api": "S",
            "sfp_dispatcher": "SID",
        },
        rows={
            "api api_machine": "S:own",
            "dispatcher": "SID:other+own",
            "migrator": "SIUD:other+own",
        },
    ),
    "identities": Table(
        grants={
            "sfp_api": "SI U(email last_used_at)",
        },
        rows={
            "api api_user": "S:other+self IU:self",
            "api_machine": "S:other+self",
            "api_token api_nobody": "S:mate+other",
        },
    ),
    "identity_providers": Table(
        grants={
            "sfp_api": "SID U(config create_users default_role default_team_id domains enabled name sealed_secret shares_users updated_at)",
        },
        rows={
            "api": "SIUD:none",
            "api_machine api_user api_token api_nobody": "S:none",
        },
        row={"slug": "'{owner}'", "kind": "'oidc'"},
    ),
    "idempotency_keys": Table(
        grants={
            "sfp_api": "SIUD",
        },
        rows={
            "api api_machine": "SIUD:own",
        },
    ),
    "leases": Table(
        grants={
            "sfp_auditor": "S",
            "sfp_api": "S",
            "sfp_broker": "I S(ended_at id revoked_at source source_id team_id) U(revoked_at)",
            "sfp_dispatcher": "S U(ended_at)",
            "authenticated": "S(attempt ended_at id kind leased_at name task_id team_id version)",
        },
        rows={
            "auditor": "S:own",
            "api api_machine": "S:own",
            "dispatcher": "SU:own",
            "broker": "I:own",
            "broker_upkeep": "SU:other+own",
            "migrator": "SIUD:other+own",
            "owner": "S:own",
        },
    ),
    "login_attempts": Table(
        grants={
            "sfp_api": "SIUD",
        },
        rows={
            "api api_machine api_user api_token api_nobody": "SIUD:none",
        },
    ),
    "memberships": Table(
        grants={
            "sfp_api": "SID U(role)",
            "authenticated": "S",
        },
        rows={
            "api api_machine": "SIUD:mate+self",
            "api_user": "S:self",
            "migrator": "S:mate+other",
            "member owner": "S:mate+self",
        },
        whose="user_id",
        row={"role": "'{role}'"},
    ),
    "oidc_trust": Table(
        grants={"sfp_api": "SID"},
        rows={"api api_machine": "SID:own", "api_token": "S:own"},
        row={"ttl_seconds": "60"},
    ),
    "oidc_uses": Table(
        grants={"sfp_api": "SID"},
        rows={"api api_machine": "SID:own"},
    ),
    "occurrences": Table(
        grants={
            "sfp_dispatcher": "SI",
        },
        rows={
            "dispatcher": "SI:own",
            "migrator": "SIUD:other+own",
        },
    ),
    "queues": Table(
        grants={
            "sfp_api": "SU",
            "sfp_dispatcher": "SU",
        },
        rows={
            "api api_machine api_user api_token api_nobody": "SU:none",
            "dispatcher": "SU:none",
            "migrator": "S:none",
        },
        row={"name": "CASE '{owner}' WHEN 'acme' THEN 'critical' ELSE 'normal' END"},
    ),
    "refresh_tokens": Table(
        grants={
            "sfp_api": "SIUD",
        },
        rows={
            "api api_user": "SIUD:own",
            "api_token api_nobody": "SIUD:other+own",
        },
        whose="session_id",
        row={"session_id": "'{id}'"},
    ),
    "saml_assertions": Table(
        grants={
            "sfp_api": "SID",
        },
        rows={
            "api api_machine api_user api_nobody": "SD:other",
            "api_token": "I:own SD:other",
        },
        whose="provider_id",
        row={
            "provider_id": "'{id}'",
            "expires_at": "CASE '{owner}' WHEN 'beta' THEN now() - interval '1 day' ELSE now() END",
        },
    ),
    "saml_metadata": Table(
        grants={
            "sfp_api": "SI U(facts fetched_at tried_at)",
        },
        rows={
            "api api_machine api_user api_token api_nobody": "SIU:other+own",
        },
        whose="provider_id",
        row={"provider_id": "'{id}'"},
    ),
    "schedules": Table(
        grants={
            "sfp_api": "SI U(next_at)",
            "sfp_dispatcher": "S U(latest_run next_at runs skipped)",
            "authenticated": "S",
        },
        rows={
            "api api_machine": "SIU:own",
            "dispatcher": "SU:other+own",
            "migrator": "SIUD:other+own",
            "member owner": "S:own",
        },
    ),
    "secrets": Table(
        grants={
            "sfp_api": "SID U(updated_at version)",
            "sfp_broker": "S(id name team_id version)",
            "authenticated": "S(created_at id name team_id updated_at version)",
        },
        rows={
            "api api_machine": "SIUD:own",
            "broker owner": "S:own",
            "broker_upkeep": "S:other+own",
        },
        row={"name": "'X'"},
    ),
    "secret_versions": Table(
        grants={
            "sfp_api": "ID S(created_at created_by key_version reference secret_id team_id value_of version)",
            "sfp_broker": "S U(key_version sealed_key)",
        },
        rows={
            "api api_machine": "SID:own",
            "broker": "S:own",
            "broker_upkeep": "SU:other+own",
        },
        row={"version": "1", "value_of": "1", "key_version": "1", "sealed_key": "''::bytea", "ciphertext": "''::bytea"},
    ),
    "projects": Table(
        grants={
            "sfp_api": "SID U(remote_url updated_at version)",
            "sfp_broker": "S",
        },
        rows={
            "api api_machine": "SIUD:own",
            "broker": "S:own",
        },
        row={"identifier": "'x'"},
    ),
    "integrations": Table(
        grants={
            "sfp_api": "ID S(auth_type config created_at created_by id is_global key_version provider team_id)",
            "sfp_broker": "S U(key_version sealed_key)",
        },
        rows={
            "api api_machine": "SID:own",
            "broker": "S:own",
            "broker_upkeep": "SU:other+own",
        },
        row={"provider": "'x'", "key_version": "1"},
    ),
    "integration_projects": Table(
        grants={
            "sfp_api": "SI",
            "sfp_broker": "S",
        },
        rows={
            "api api_machine": "SI:own",
            "broker": "S:own",
        },
    ),
    "vault_keys": Table(
        grants={
            "sfp_api": "SI",
            "sfp_broker": "SID",
        },
        rows={
            "api api_machine api_user api_token api_nobody": "SI:none",
            "broker broker_upkeep broker_ticket": "SID:none",
        },
        whose="NULL",
        row={"version": "CASE '{owner}' WHEN 'acme' THEN 1 ELSE 2 END"},
    ),
    "sessions": Table(
        grants={
            "sfp_api": "SIUD",
        },
        rows={
            "api api_user": "SIUD:self",
            "api_token api_nobody": "SIUD:mate+other",
            "migrator": "S:mate+other",
        },
        row={"id": "'{id}'", "revoked_at": "now()"},
    ),
    "sign_in_flows": Table(
        grants={
            "sfp_api": "SID U(used_at)",
        },
        rows={
            "api api_machine api_user api_nobody": "SD:other",
            "api_token": "IU:own SD:other+own",
            "migrator": "S:other+own",
        },
        whose="address",
        row={
            "address": "'{id}'",
            "expires_at": "CASE '{owner}' WHEN 'beta' THEN now() - interval '1 day' ELSE now() END",
        },
    ),
    "tasks": Table(
        grants={
            "sfp_auditor": "S",
            "sfp_api": "SI U(cancel_requested_at cancelled_by error finished_at reason reason_detail status)",
            "sfp_broker": "S(attempt created_by credentials id status team_id)",
            "sfp_courier": "S(attempt created_by data id status team_id)",
            "sfp_dispatcher": "SI U(attempt due_at error finished_at preemptions progress reason reason_detail result started_at status step)",
            "authenticated": "S(attempt concurrency_key created_at created_by_name credentials data due_at error finished_at id labels limits max_attempts network priority progress reason reason_detail result retry_config retry_of runtime schedule_type series_id started_at status step team_id timeout_seconds type)",
        },
        rows={
            "auditor": "S:own",
            "api api_machine": "SIU:own",
            "dispatcher": "SIU:other+own",
            "broker member owner": "S:own",
            "courier": "S:other+own",
            "migrator": "SIUD:other+own",
        },
        row={"schedule_type": "'immediate'", "network": "'none'"},
    ),
    "teams": Table(
        grants={
            "sfp_auditor": "S(id slug)",
            "sfp_api": "SID U(description name)",
            "authenticated": "S",
        },
        rows={
            "auditor": "S:own",
            "api api_machine": "SIUD:own",
            "api_user api_token": "S:own",
            "migrator": "SIUD:other+own",
            "member owner": "S:own",
        },
        whose="id",
        row={"id": "'{id}'", "slug": "'{owner}'"},
    ),
    "turns": Table(
        grants={
            "sfp_dispatcher": "SIU",
        },
        rows={
            "dispatcher": "SIU:other+own",
        },
    ),
    "users": Table(
        grants={
            "sfp_api": "SI U(disabled_at email first_name last_name password_by password_hash)",
            "authenticated": "S(created_at email first_name id last_name)",
        },
        rows={
            "api api_machine": "SU:mate+self",
            "api_user": "I:mate+other+self SU:self",
            "api_token api_nobody": "SIU:mate+other",
            "migrator": "SIUD:mate+other",
            "member owner": "S:mate+self",
        },
        whose="id",
        row={
            "id": "'{id}'",
            "email": "'{person}@x.example'",
            "disabled_at": "CASE '{person}' WHEN 'dan' THEN now() END",
        },
    ),
    "worker_tickets": Table(
        grants={
            "sfp_broker": "S U(drawn_at drawn_by)",
            "sfp_dispatcher": "SID",
        },
        rows={
            "dispatcher": "SID:own",
            "broker_ticket": "SU:own",
            "migrator": "SIUD:other+own",
        },
    ),
}

#: SECURITY DEFINER functions of the schema `sfp`: they see what their owner sees, so who may call each is said here
DEFINERS = {
    "administers_instance()": "sfp_api",
    "add_user(text,text,text,text)": "sfp_api",
    "drop_old_events(timestamp with time zone)": "sfp_dispatcher",
    "drop_old_tasks(timestamp with time zone)": "sfp_dispatcher",
    "devices_waiting(text)": "sfp_api",
    "audit_is_sealed()": "",
    "enrol(text,text,bytea,bytea,integer,bytea)": "",
    "find_user(text)": "sfp_api",
    "flows_under_way(text)": "sfp_api",
    "list_tasks(text,text,text,jsonb,timestamp with time zone,timestamp with time zone,uuid,integer)": "sfp_api",
    "make_partitions(integer)": "sfp_dispatcher",
    "mates_of_caller()": "authenticated",
    "memberships_guarded()": "",
    "place_in_line(uuid)": "sfp_api",
    "remove_user(uuid)": "sfp_api",
    "teams_keep_one()": "",
    "teams_of_caller(text)": "authenticated",
    "unenrol(text,bytea)": "",
}
