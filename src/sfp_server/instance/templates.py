"""The configuration files of the services, as pure functions of place and settings.

They are written by `init` for the reader and again at every `start`: config.json is the only one to edit.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence

from sfp_server.instance.edge import has_own_authority
from sfp_server.instance.place import Place
from sfp_server.instance.services import Service, launcher
from sfp_server.settings import Settings
from sfp_server.web import headers

GENERATED = "# Written by sfp-server at every start: change config.json instead.\n"


def postgresql_conf(*, connections: int) -> str:
    """Small, durable, reachable through its unix socket only; never logs a statement (it could hold a secret)."""
    return (
        GENERATED
        + """\
listen_addresses = ''
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = CONNECTIONS
shared_buffers = '64MB'
work_mem = '4MB'
maintenance_work_mem = '32MB'
jit = off
huge_pages = off
io_method = 'sync'
max_worker_processes = 4
max_parallel_workers_per_gather = 0
max_logical_replication_workers = 0
wal_level = replica
min_wal_size = '32MB'
max_wal_size = '512MB'
checkpoint_timeout = '10min'
log_destination = 'stderr'
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
log_checkpoints = off
log_min_error_statement = panic
log_parameter_max_length_on_error = 0
log_error_verbosity = terse
timezone = 'UTC'
datestyle = 'iso, mdy'
lc_messages = 'C.UTF-8'
lc_monetary = 'C.UTF-8'
lc_numeric = 'C.UTF-8'
lc_time = 'C.UTF-8'
default_text_search_config = 'pg_catalog.english'
""".replace("CONNECTIONS", str(connections))
    )


def pg_hba_conf() -> str:
    """Passwords for everybody, through the socket; no trust, no TCP, no replication."""
    return GENERATED + "local all all scram-sha-256\n"


def valkey_conf(at: Place, password: str) -> str:
    """A cache that may forget: nothing is written to disk, and the least used key goes when memory is full.

    allkeys-lru: what lies here (answers, fan-out, request counters) can be made again, and a cache that
    refuses writes would be an outage. Limits that must not be forgotten (sign-in) live in PostgreSQL.
    """
    return (
        GENERATED
        + f"""\
port 0
unixsocket "{at.run / "valkey.sock"}"
unixsocketperm 700
requirepass {password}
dir "{at.run}"
save ""
appendonly no
maxmemory 64mb
maxmemory-policy allkeys-lru
maxclients 512
client-output-buffer-limit pubsub 16mb 4mb 30
io-threads 1
daemonize no
set-proc-title no
enable-debug-command no
enable-module-command no
loglevel notice
"""
    )


def supervisor_conf(at: Place, services: Sequence[Service], *, autostart: Sequence[str]) -> str:
    """The file of supervisord. `startsecs=0`: it never gives up on a service; launch.py slows a crash loop down."""
    blocks = [_supervisord(at), *(_program(service, service.name in autostart) for service in services)]
    return GENERATED + "\n".join(blocks)


def _supervisord(at: Place) -> str:
    user = "user=root\n" if os.geteuid() == 0 else ""
    return f"""
[unix_http_server]
file={at.supervisor_socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
{user}logfile=%(here)s/logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=2
loglevel=info
pidfile={at.run / "supervisord.pid"}
directory=%(here)s
childlogdir=%(here)s/logs
umask=077
nocleanup=true
"""


def _program(service: Service, autostart: bool) -> str:
    many = service.processes > 1
    name = f"{service.name}-%(process_num)d" if many else service.name
    command = f'{_quoted(sys.executable)} -I -S {_quoted(launcher())} "%(here)s" {service.name} {name}'
    return f"""
[program:{service.name}]
command={command}
process_name={name}
numprocs={service.processes}
numprocs_start=1
priority={service.priority}
autostart={"true" if autostart else "false"}
autorestart=true
startsecs=0
stopsignal={service.stop_signal}
stopwaitsecs={service.stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=%(here)s/logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def _quoted(path: str) -> str:
    return shlex.quote(path).replace("%", "%%")


def caddyfile(at: Place, settings: Settings) -> str:
    """The edge: TLS, limits, headers; everything else is the API's business."""
    local = has_own_authority(settings)
    names = dict.fromkeys([settings.domain, *(["localhost", "127.0.0.1"] if local else [])])
    sites = ", ".join(f"https://{name}:{settings.port}" for name in names)
    # plain HTTP is answered, by a redirect, only where the edge has the usual port and is meant for the outside
    redirects = "\tauto_https disable_redirects\n" if local or settings.port != 443 else ""
    hsts = "" if local else '\t\tStrict-Transport-Security "max-age=31536000"\n'
    return (
        GENERATED
        + f"""\
{{
	admin off
	persist_config off
	skip_install_trust
{redirects}	default_sni {settings.domain}
{_bind(settings)}	storage file_system {{
		root "{at.directory / "caddy"}"
	}}
	grace_period 5s
	log {{
		output stderr
		level WARN
	}}
	servers {{
		protocols h1 h2
		max_header_size 32KB
		timeouts {{
			read_header 10s
			read_body 15m
			idle 2m
		}}
	}}
}}

(headers) {{
	header {{
{_header_fields(hsts)}	}}
}}

{sites} {{
{_tls(local)}	encode zstd gzip
	import headers
{_proxies(at, settings)}{_errors()}{_access_log(at)}}}

{_nobody(settings, local)}"""
    )


def _header_fields(hsts: str) -> str:
    """What the API says of every answer (web/headers.py), for the edge's own ones too. `>`: when it is complete."""
    own = [(name.decode().title(), value.decode()) for name, value in headers.ALWAYS]
    lines = "".join(f'\t\t>{name} "{value}"\n' for name, value in own)
    closed = "".join(f'\t\t?{name.decode().title()} "{value.decode()}"\n' for name, value in headers.DEFAULTS)
    return f"{hsts}{lines}{closed}\t\t-Server\n\t\t-Via\n\t\t-X-Powered-By\n"


def _nobody(settings: Settings, local: bool) -> str:
    """Whoever comes with another name gets no certificate for it, and no empty 200 either."""
    return f"""\
https://:{settings.port} {{
{_tls(local)}	import headers
	header Content-Type application/problem+json
	respond `{_problem(421, "misdirected", "Not this server", "this server does not answer to the name in Host")}` 421
}}
"""


def _bind(settings: Settings) -> str:
    return "\tdefault_bind 127.0.0.1\n" if settings.mode == "dev" else ""


def _tls(local: bool) -> str:
    """Caddy's own authority on this machine; a real domain gets its certificate by ACME."""
    return "\ttls internal\n" if local else ""


def _proxies(at: Place, settings: Settings) -> str:
    """Uploads stream through; every other body is small and is read here first.

    So a client that stalls in its body holds a connection of the edge, which has plenty, and none of the API.
    """
    return (
        _proxy(at, settings, "@upload", f"{settings.upload_max_mb + 1}MiB", buffer="")
        + _proxy(at, settings, "@other", "8MiB", buffer="\t\t\trequest_buffers 8MiB\n")
        + """\
	@upload path /sfp/api/artifacts /sfp/api/artifacts/*
	@other not path /sfp/api/artifacts /sfp/api/artifacts/*
"""
    )


def _proxy(at: Place, settings: Settings, matcher: str, limit: str, *, buffer: str) -> str:
    """X-Forwarded-For is the edge's word: what a client sends under that name is not passed on.

    The edge proves that it is the one who speaks (`web/forwarded.py`), so that nobody else on this machine can.

    The API holds no answer back for longer than 30 seconds (long polls), and streams begin at once: whoever has not
    begun to answer three times as long is stuck in a way that the guard could not mend, and the client is told so.
    """
    return f"""\
	handle {matcher} {{
		request_body {{
			max_size {limit}
		}}
		reverse_proxy 127.0.0.1:{settings.api_port} {{
{buffer}			flush_interval -1
			header_up -Forwarded
			header_up -X-Real-Ip
			header_up X-Sfp-Edge "{{file.{at.secrets / "edge-key"}}}"
			header_down -Server
			stream_close_delay 5s
			transport http {{
				dial_timeout 2s
				response_header_timeout 90s
				keepalive 30s
				keepalive_idle_conns_per_host 32
			}}
		}}
	}}
"""


def _errors() -> str:
    """While the API is away, and for what the edge itself refuses: the same body shape as the API's own."""
    again = "the service is starting or being repaired: try again in a moment"
    away = _problem(503, "unavailable", "Service unavailable", again)
    large = _problem(413, "too_large", "Too large", "the request body is larger than this server takes")
    return f"""\
	handle_errors 413 {{
		import headers
		header Content-Type application/problem+json
		respond `{large}` 413
	}}
	handle_errors {{
		import headers
		header Content-Type application/problem+json
		header Retry-After 2
		respond `{away}` 503
	}}
"""


def _problem(status: int, code: str, title: str, detail: str) -> str:
    """The body of an error, in the API's shape."""
    names = {"type": f"/problems/{code}", "title": title, "status": status, "detail": detail, "code": code}
    return json.dumps({**names, "statusCode": status, "message": detail}, separators=(",", ":"))


def _access_log(at: Place) -> str:
    """Who asked for what, without what could be a secret: no query string, no header."""
    return f"""\
	log {{
		output file "{at.logs / "access.log"}" {{
			mode 0600
			roll_size 10MiB
			roll_keep 3
		}}
		format filter {{
			fields {{
				request>headers delete
				resp_headers delete
				request>tls delete
				request>uri regexp "[?].*" "?…"
			}}
			wrap json
		}}
	}}
"""
