-- version: 1.0.0
-- description: Everything that the plane began with
-- kind: schema
-- covered-by: specs

CREATE SCHEMA runtime;
COMMENT ON SCHEMA runtime IS 'Journals of the runtime library';

CREATE SCHEMA agents;
COMMENT ON SCHEMA agents IS 'Agent metadata, state and life cycle';

CREATE SCHEMA knowledge;
COMMENT ON SCHEMA knowledge IS 'Facts and their embeddings';

CREATE SCHEMA messages;
COMMENT ON SCHEMA messages IS 'Channels, subscriptions and the log of what agents told each other';

CREATE SCHEMA audit;
COMMENT ON SCHEMA audit IS 'Who changed what, and when';

CREATE SCHEMA monitoring;
COMMENT ON SCHEMA monitoring IS 'Views and functions for operators';

CREATE SCHEMA partitions;
COMMENT ON SCHEMA partitions IS 'How far the range partitions reach; they are made and retired by holdfast partitions maintain';

CREATE SCHEMA recovery;
COMMENT ON SCHEMA recovery IS 'Tests of backups';

CREATE SCHEMA sessions;
COMMENT ON SCHEMA sessions IS 'Sessions of people and agents';

CREATE SCHEMA tasks;
COMMENT ON SCHEMA tasks IS 'Tasks, their dependencies and their executions';

CREATE EXTENSION vector WITH SCHEMA public;

CREATE TABLE runtime.outbox (
  outbox_id uuid DEFAULT gen_random_uuid() NOT NULL,
  "position" bigint GENERATED ALWAYS AS IDENTITY (START WITH 1 INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 CACHE 1 NO CYCLE) NOT NULL,
  xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
  subject text NOT NULL,
  payload jsonb NOT NULL,
  headers jsonb DEFAULT '{}' NOT NULL,
  created_at timestamp with time zone DEFAULT now() NOT NULL,
  published_at timestamp with time zone,
  CONSTRAINT outbox_pkey PRIMARY KEY (outbox_id),
  CONSTRAINT valid_subject CHECK (subject <> '' AND subject !~ '[[:space:]*>]'),
  CONSTRAINT valid_headers CHECK (jsonb_typeof(headers) = 'object')
)
WITH (autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.01', fillfactor = 80);
COMMENT ON COLUMN runtime.outbox.outbox_id IS 'Also the Nats-Msg-Id';
COMMENT ON TABLE runtime.outbox IS 'Events written with the data they tell of, until the relay has published them';

CREATE TABLE runtime.inbox (
  consumer text NOT NULL,
  message_id text NOT NULL,
  handled_at timestamp with time zone DEFAULT now() NOT NULL,
  CONSTRAINT inbox_pkey PRIMARY KEY (consumer, message_id)
);
COMMENT ON TABLE runtime.inbox IS 'Messages that a consumer has already handled';

CREATE TABLE knowledge.embeddings (
  embedding_id uuid DEFAULT gen_random_uuid() NOT NULL,
  fact_id uuid NOT NULL,
  embedding_model character varying(100) NOT NULL,
  embedding_version character varying(20) NOT NULL,
  embedding_vector public.vector(1536),
  text_content text COMPRESSION pglz NOT NULL,
  content_hash character varying(64) NOT NULL,
  created_at timestamp with time zone DEFAULT now(),
  CONSTRAINT embeddings_pkey PRIMARY KEY (embedding_id),
  CONSTRAINT valid_embedding_model CHECK (length(embedding_model) > 0),
  CONSTRAINT valid_text_content CHECK (length(text_content) > 0)
);
COMMENT ON COLUMN knowledge.embeddings.content_hash IS 'SHA-256 of text_content';
COMMENT ON TABLE knowledge.embeddings IS 'Vectors of the texts behind facts';

CREATE TABLE messages.channels (
  channel_id uuid DEFAULT gen_random_uuid() NOT NULL,
  channel_name character varying(255) NOT NULL,
  channel_type character varying(50) NOT NULL,
  description text,
  configuration jsonb DEFAULT '{}',
  is_active boolean DEFAULT true,
  created_at timestamp with time zone DEFAULT now(),
  CONSTRAINT channels_pkey PRIMARY KEY (channel_id),
  CONSTRAINT channels_channel_name_key UNIQUE (channel_name),
  CONSTRAINT valid_channel_name CHECK (length(channel_name) > 0),
  CONSTRAINT valid_channel_type CHECK (channel_type IN ('broadcast', 'direct', 'topic', 'queue'))
);
COMMENT ON TABLE messages.channels IS 'Named routes between agents';

CREATE TABLE audit.change_log (
  change_id uuid DEFAULT gen_random_uuid() NOT NULL,
  table_name text,
  operation text,
  changed_by text,
  changed_at timestamp with time zone DEFAULT now(),
  old_data jsonb,
  new_data jsonb,
  CONSTRAINT change_log_pkey PRIMARY KEY (change_id),
  CONSTRAINT valid_operation CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE'))
);
COMMENT ON TABLE audit.change_log IS 'Changes of audited rows; written by triggers only';

CREATE TABLE monitoring.query_plans (
  plan_id uuid DEFAULT gen_random_uuid() NOT NULL,
  query_hash text,
  plan_json jsonb,
  execution_stats jsonb,
  captured_at timestamp with time zone DEFAULT now(),
  CONSTRAINT query_plans_pkey PRIMARY KEY (plan_id)
);
COMMENT ON TABLE monitoring.query_plans IS 'Captured plans of slow queries';

CREATE TABLE recovery.test_results (
  test_id uuid DEFAULT gen_random_uuid() NOT NULL,
  test_type character varying(50) NOT NULL,
  backup_timestamp timestamp with time zone NOT NULL,
  recovery_target timestamp with time zone,
  test_started_at timestamp with time zone DEFAULT clock_timestamp(),
  test_completed_at timestamp with time zone,
  test_status character varying(20) DEFAULT 'running',
  data_verification_passed boolean,
  performance_metrics jsonb DEFAULT '{}',
  error_messages text[],
  notes text,
  CONSTRAINT test_results_pkey PRIMARY KEY (test_id),
  CONSTRAINT valid_test_type CHECK (test_type IN ('full_restore', 'pitr', 'partial_restore', 'cross_system')),
  CONSTRAINT valid_test_status CHECK (test_status IN ('running', 'passed', 'failed', 'cancelled'))
);
COMMENT ON TABLE recovery.test_results IS 'Runs of recovery tests; a row is made at the start and finished at the end';

CREATE TYPE runtime.saga_state AS ENUM ('running', 'completed', 'compensating', 'rolled_back', 'compensation_failed');

CREATE TABLE runtime.sagas (
  saga_id uuid DEFAULT gen_random_uuid() NOT NULL,
  correlation_id uuid NOT NULL,
  name text NOT NULL,
  state runtime.saga_state DEFAULT 'running' NOT NULL,
  context jsonb DEFAULT '{}' NOT NULL,
  attempts integer DEFAULT 0 NOT NULL,
  reason text,
  deadline timestamp with time zone NOT NULL,
  created_at timestamp with time zone DEFAULT now() NOT NULL,
  updated_at timestamp with time zone DEFAULT now() NOT NULL,
  CONSTRAINT sagas_pkey PRIMARY KEY (saga_id),
  CONSTRAINT valid_attempts CHECK (attempts >= 0)
);
COMMENT ON TABLE runtime.sagas IS 'Cross-system operations; one that is not finished is finished or undone after a crash';

CREATE TYPE runtime.step_state AS ENUM ('planned', 'done', 'undone', 'failed');

CREATE TABLE runtime.saga_steps (
  saga_id uuid NOT NULL,
  step integer NOT NULL,
  state runtime.step_state DEFAULT 'planned' NOT NULL,
  action jsonb NOT NULL,
  undo jsonb,
  prior_value jsonb,
  prior_incarnation bigint,
  prior_revision bigint,
  error text,
  created_at timestamp with time zone DEFAULT now() NOT NULL,
  updated_at timestamp with time zone DEFAULT now() NOT NULL,
  CONSTRAINT saga_steps_pkey PRIMARY KEY (saga_id, step),
  CONSTRAINT valid_step CHECK (step >= 0)
);
COMMENT ON TABLE runtime.saga_steps IS 'Steps of sagas with what is needed to undo them';

CREATE TYPE runtime.verdict AS ENUM ('commit', 'abort');

CREATE TABLE runtime.decisions (
  transaction_id text NOT NULL,
  verdict runtime.verdict NOT NULL,
  intent jsonb DEFAULT '{}' NOT NULL,
  decided_at timestamp with time zone DEFAULT now() NOT NULL,
  finished_at timestamp with time zone,
  CONSTRAINT decisions_pkey PRIMARY KEY (transaction_id),
  CONSTRAINT valid_transaction_id CHECK (octet_length(transaction_id) > 0 AND octet_length(transaction_id) < 200)
);
COMMENT ON COLUMN runtime.decisions.transaction_id IS 'Global id of the prepared transaction';
COMMENT ON TABLE runtime.decisions IS 'Verdicts of two-phase commits; a prepared transaction without one is aborted after its deadline';

CREATE FUNCTION runtime.delete_expired(p_batch integer DEFAULT 1000)
RETURNS table(table_name text, deleted bigint)
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
ROWS 1000
SET search_path TO 'pg_catalog'
AS $body$DECLARE
  deleted bigint;
BEGIN
  WITH expired AS (
    SELECT s.agent_id, s.state_key FROM agents.state AS s
     WHERE s.expires_at <= now() ORDER BY s.expires_at LIMIT p_batch FOR UPDATE SKIP LOCKED
  )
  DELETE FROM agents.state AS s USING expired AS e
   WHERE s.agent_id = e.agent_id AND s.state_key = e.state_key;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  RETURN QUERY SELECT 'agents.state', deleted;

  -- What runs is left to end first.
  WITH expired AS (
    SELECT q.task_id, q.task_type FROM tasks.queue AS q
     WHERE q.expires_at <= now() AND q.status NOT IN ('running', 'paused')
     ORDER BY q.expires_at LIMIT p_batch FOR UPDATE SKIP LOCKED
  )
  DELETE FROM tasks.queue AS q USING expired AS e
   WHERE q.task_id = e.task_id AND q.task_type = e.task_type;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  RETURN QUERY SELECT 'tasks.queue', deleted;

  WITH expired AS (
    SELECT a.session_id, a.session_token FROM sessions.active AS a
     WHERE a.expires_at <= now() ORDER BY a.expires_at LIMIT p_batch FOR UPDATE SKIP LOCKED
  )
  DELETE FROM sessions.active AS a USING expired AS e
   WHERE a.session_id = e.session_id AND a.session_token = e.session_token;
  GET DIAGNOSTICS deleted = ROW_COUNT;
  RETURN QUERY SELECT 'sessions.active', deleted;
END;
$body$;
COMMENT ON FUNCTION runtime.delete_expired(integer) IS 'Deletes up to p_batch expired rows of each table that has them; call it until it deletes none';
CREATE FUNCTION runtime.wake_outbox_relay()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$BEGIN
  -- A hint without content: the relay reads the table anyway, and a payload of 8000 bytes would abort the writer.
  PERFORM pg_notify('nats_publish', '');
  RETURN NULL;
END;
$body$;
COMMENT ON FUNCTION runtime.wake_outbox_relay() IS 'Wakes a relay that listens on nats_publish';

CREATE TYPE agents.agent_status_type AS ENUM ('initializing', 'active', 'idle', 'terminated', 'error');

CREATE DOMAIN agents.agent_id_type AS uuid;

CREATE TABLE agents.registry (
  agent_id agents.agent_id_type DEFAULT gen_random_uuid() NOT NULL,
  agent_type character varying(50) NOT NULL,
  agent_name character varying(255) NOT NULL,
  status agents.agent_status_type DEFAULT 'initializing',
  capabilities jsonb DEFAULT '{}',
  configuration jsonb DEFAULT '{}',
  metadata jsonb,
  parent_agent_id agents.agent_id_type,
  created_at timestamp with time zone DEFAULT now(),
  updated_at timestamp with time zone DEFAULT now(),
  last_heartbeat timestamp with time zone,
  CONSTRAINT registry_pkey PRIMARY KEY (agent_id),
  CONSTRAINT valid_agent_name CHECK (length(agent_name) > 0),
  CONSTRAINT valid_agent_type CHECK (length(agent_type) > 0),
  CONSTRAINT no_self_parent CHECK (agent_id <> parent_agent_id)
)
WITH (fillfactor = 90);
COMMENT ON TABLE agents.registry IS 'Every agent, its configuration and its last sign of life';

CREATE TABLE agents.state (
  agent_id agents.agent_id_type NOT NULL,
  state_key character varying(255) NOT NULL,
  state_value jsonb COMPRESSION pglz NOT NULL,
  version bigint DEFAULT 1,
  checksum character varying(64),
  created_at timestamp with time zone DEFAULT now(),
  updated_at timestamp with time zone DEFAULT now(),
  expires_at timestamp with time zone,
  kv_incarnation bigint,
  kv_revision bigint,
  owner_epoch bigint,
  deleted_at timestamp with time zone,
  CONSTRAINT state_pkey PRIMARY KEY (agent_id, state_key) INCLUDE (version, updated_at),
  CONSTRAINT valid_state_key CHECK (length(state_key) > 0),
  CONSTRAINT valid_version CHECK (version > 0),
  CONSTRAINT future_expiry CHECK (expires_at IS NULL OR expires_at > created_at),
  CONSTRAINT valid_kv_position CHECK ((kv_incarnation IS NULL) = (kv_revision IS NULL))
)
PARTITION BY HASH (agent_id);
COMMENT ON COLUMN agents.state.version IS 'Own counter of the row; never a bucket revision';
COMMENT ON COLUMN agents.state.checksum IS 'SHA-256 of the value as flushed';
COMMENT ON COLUMN agents.state.kv_incarnation IS 'Creation time of the bucket''s stream in nanoseconds since 1970; the later incarnation wins';
COMMENT ON COLUMN agents.state.kv_revision IS 'Bucket revision that this row holds; compared only within one incarnation';
COMMENT ON COLUMN agents.state.owner_epoch IS 'Revision of the lease under which the value was written';
COMMENT ON COLUMN agents.state.deleted_at IS 'When the key was deleted in the bucket; the row is then a tombstone';
COMMENT ON TABLE agents.state IS 'Durable state of agents, flushed from the bucket AGENT_STATE';
CREATE TABLE agents.state_0 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 0) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_1 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 1) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_2 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 2) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_3 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 3) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_4 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 4) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_5 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 5) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_6 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 6) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);
CREATE TABLE agents.state_7 PARTITION OF agents.state FOR VALUES WITH (modulus 8, remainder 7) WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 85);

CREATE TABLE agents.checkpoints (
  checkpoint_id uuid DEFAULT gen_random_uuid() NOT NULL,
  agent_id agents.agent_id_type NOT NULL,
  checkpoint_name character varying(255),
  state_snapshot jsonb COMPRESSION pglz NOT NULL,
  kv_revision bigint,
  trigger_event character varying(100),
  created_at timestamp with time zone DEFAULT now(),
  CONSTRAINT checkpoints_pkey PRIMARY KEY (checkpoint_id),
  CONSTRAINT valid_checkpoint_name CHECK (checkpoint_name IS NULL OR length(checkpoint_name) > 0)
);
COMMENT ON TABLE agents.checkpoints IS 'Snapshots of an agent''s state to roll back to';

CREATE TABLE agents.lifecycle_events (
  event_id uuid DEFAULT gen_random_uuid() NOT NULL,
  agent_id agents.agent_id_type NOT NULL,
  event_type character varying(50) NOT NULL,
  previous_status agents.agent_status_type,
  new_status agents.agent_status_type,
  event_data jsonb DEFAULT '{}',
  triggered_by agents.agent_id_type,
  created_at timestamp with time zone DEFAULT now() NOT NULL,
  CONSTRAINT lifecycle_events_pkey PRIMARY KEY (event_id, created_at),
  CONSTRAINT valid_event_type CHECK (length(event_type) > 0),
  CONSTRAINT status_change CHECK ((previous_status IS NULL AND new_status IS NULL) OR previous_status IS DISTINCT FROM new_status)
)
PARTITION BY RANGE (created_at);
COMMENT ON TABLE agents.lifecycle_events IS 'What happened to agents, day by day';

CREATE TABLE knowledge.facts (
  fact_id uuid DEFAULT gen_random_uuid() NOT NULL,
  entity_type character varying(100) NOT NULL,
  entity_id character varying(255) NOT NULL,
  predicate character varying(255) NOT NULL,
  object_value jsonb NOT NULL,
  object_type character varying(50) NOT NULL,
  source_agent_id agents.agent_id_type,
  confidence_score numeric(3,2),
  evidence jsonb DEFAULT '{}',
  created_at timestamp with time zone DEFAULT now(),
  updated_at timestamp with time zone DEFAULT now(),
  valid_from timestamp with time zone DEFAULT now(),
  valid_until timestamp with time zone,
  CONSTRAINT facts_pkey PRIMARY KEY (fact_id),
  CONSTRAINT valid_entity_type CHECK (length(entity_type) > 0),
  CONSTRAINT valid_entity_id CHECK (length(entity_id) > 0),
  CONSTRAINT valid_predicate CHECK (length(predicate) > 0),
  CONSTRAINT valid_confidence_score CHECK (confidence_score >= 0.0 AND confidence_score <= 1.0),
  CONSTRAINT valid_validity_period CHECK (valid_until IS NULL OR valid_until > valid_from)
);
COMMENT ON TABLE knowledge.facts IS 'Statements about entities, with provenance, confidence and validity';

CREATE TABLE messages.subscriptions (
  subscription_id uuid DEFAULT gen_random_uuid() NOT NULL,
  agent_id agents.agent_id_type NOT NULL,
  channel_id uuid NOT NULL,
  message_pattern character varying(255),
  filters jsonb DEFAULT '{}',
  is_active boolean DEFAULT true,
  created_at timestamp with time zone DEFAULT now(),
  CONSTRAINT subscriptions_pkey PRIMARY KEY (subscription_id),
  CONSTRAINT subscriptions_agent_channel_pattern_key UNIQUE NULLS NOT DISTINCT (agent_id, channel_id, message_pattern)
);
COMMENT ON TABLE messages.subscriptions IS 'Which agent listens to which channel';

CREATE TABLE sessions.active (
  session_id uuid DEFAULT gen_random_uuid() NOT NULL,
  session_token character varying(255) NOT NULL,
  agent_id agents.agent_id_type,
  user_id character varying(255),
  session_type character varying(50) DEFAULT 'interactive' NOT NULL,
  session_data jsonb DEFAULT '{}',
  preferences jsonb DEFAULT '{}',
  permissions jsonb DEFAULT '{}',
  ip_address inet,
  user_agent text,
  created_at timestamp with time zone DEFAULT now(),
  last_activity timestamp with time zone DEFAULT now(),
  expires_at timestamp with time zone NOT NULL,
  CONSTRAINT active_pkey PRIMARY KEY (session_id, session_token),
  CONSTRAINT active_session_token_key UNIQUE (session_token),
  CONSTRAINT valid_session_token CHECK (length(session_token) >= 32),
  CONSTRAINT valid_session_type CHECK (session_type IN ('interactive', 'api', 'system', 'background')),
  CONSTRAINT future_expiry CHECK (expires_at > created_at)
)
PARTITION BY HASH (session_token);
COMMENT ON TABLE sessions.active IS 'Sessions until they are cleaned up; whether one has expired is asked by queries';
CREATE TABLE sessions.active_0 PARTITION OF sessions.active FOR VALUES WITH (modulus 4, remainder 0) WITH (autovacuum_analyze_scale_factor = '0.05', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 80);
CREATE TABLE sessions.active_1 PARTITION OF sessions.active FOR VALUES WITH (modulus 4, remainder 1) WITH (autovacuum_analyze_scale_factor = '0.05', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 80);
CREATE TABLE sessions.active_2 PARTITION OF sessions.active FOR VALUES WITH (modulus 4, remainder 2) WITH (autovacuum_analyze_scale_factor = '0.05', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 80);
CREATE TABLE sessions.active_3 PARTITION OF sessions.active FOR VALUES WITH (modulus 4, remainder 3) WITH (autovacuum_analyze_scale_factor = '0.05', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.02', fillfactor = 80);

COMMENT ON DOMAIN agents.agent_id_type IS 'Identity of an agent';

CREATE FUNCTION agents.validate_agent_metadata(metadata jsonb)
RETURNS boolean
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$DECLARE
  -- year, month, day of an ISO 8601 time without or with its offset
  parts text[];
BEGIN
  IF jsonb_typeof(metadata) IS DISTINCT FROM 'object' OR NOT metadata ? 'version' THEN
    RETURN false;
  END IF;
  parts := regexp_match(
    metadata ->> 'created_at',
    '^(?!0000)(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:Z|[+-]\d{2}:?\d{2})?$');
  IF parts IS NULL THEN
    RETURN false;
  END IF;
  RETURN parts[3]::integer <= extract(day FROM
    make_date(parts[1]::integer, parts[2]::integer, 1) + interval '1 month' - interval '1 day');
END;
$body$;
COMMENT ON FUNCTION agents.validate_agent_metadata(jsonb) IS 'True for an object with a version and a real created_at time; false for anything else, NULL included';
CREATE FUNCTION agents.hydrate_agent_state(p_agent_id uuid)
RETURNS table(state_key character varying, state_value jsonb, version bigint, checksum character varying, kv_incarnation bigint, kv_revision bigint, expires_at timestamp with time zone)
LANGUAGE sql
STABLE
PARALLEL SAFE
COST 100
ROWS 1000
SET search_path TO 'pg_catalog'
AS $body$SELECT s.state_key, s.state_value, s.version, s.checksum, s.kv_incarnation, s.kv_revision, s.expires_at
  FROM agents.state AS s
 WHERE s.agent_id = p_agent_id
   AND s.deleted_at IS NULL
   AND (s.expires_at IS NULL OR s.expires_at > now())
 ORDER BY s.updated_at DESC, s.state_key
$body$;
COMMENT ON FUNCTION agents.hydrate_agent_state(uuid) IS 'The living state rows of one agent, newest first';

CREATE TYPE messages.message_type AS ENUM ('command', 'query', 'response', 'notification', 'heartbeat', 'error');

CREATE DOMAIN messages.message_id_type AS uuid;

CREATE TABLE messages.log (
  message_id messages.message_id_type DEFAULT gen_random_uuid() NOT NULL,
  channel_id uuid,
  from_agent_id agents.agent_id_type,
  to_agent_id agents.agent_id_type,
  broadcast_to_type character varying(50),
  message_type messages.message_type NOT NULL,
  subject character varying(255),
  payload jsonb COMPRESSION pglz DEFAULT '{}' NOT NULL,
  headers jsonb DEFAULT '{}',
  correlation_id uuid,
  reply_to character varying(255),
  sent_at timestamp with time zone DEFAULT now() NOT NULL,
  delivered_at timestamp with time zone,
  processed_at timestamp with time zone,
  delivery_attempts integer DEFAULT 0,
  priority integer DEFAULT 0,
  expires_at timestamp with time zone,
  is_persistent boolean DEFAULT true,
  CONSTRAINT log_pkey PRIMARY KEY (message_id, sent_at),
  CONSTRAINT valid_priority CHECK (priority >= 0 AND priority <= 10),
  CONSTRAINT valid_delivery_attempts CHECK (delivery_attempts >= 0),
  CONSTRAINT routing_consistency CHECK (num_nonnulls(to_agent_id, broadcast_to_type) = 1 OR (num_nonnulls(to_agent_id, broadcast_to_type) = 0 AND channel_id IS NOT NULL) OR message_type = 'heartbeat')
)
PARTITION BY RANGE (sent_at);
COMMENT ON TABLE messages.log IS 'Every message, day by day';

COMMENT ON DOMAIN messages.message_id_type IS 'Identity of a message';

CREATE FUNCTION audit.touch_updated_at()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$BEGIN
  NEW.updated_at := now();
  RETURN NEW;
END;
$body$;
COMMENT ON FUNCTION audit.touch_updated_at() IS 'Keeps updated_at of a changed row';
-- ! security: whoever may execute it acts with its owner's rights
CREATE FUNCTION audit.record_change()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$BEGIN
  INSERT INTO audit.change_log (table_name, operation, changed_by, old_data, new_data)
  VALUES (
    TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME,
    TG_OP,
    -- the login; current_user is the owner of this function
    session_user,
    CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
    CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
  RETURN NULL;
END;
$body$;
COMMENT ON FUNCTION audit.record_change() IS 'Writes a change of a row to audit.change_log';

-- ! security: whoever may execute it acts with its owner's rights
CREATE FUNCTION monitoring.check_connection_pool_health()
RETURNS table(pool_name text, total_connections integer, active_connections integer, idle_connections integer, idle_in_transaction integer, max_connections integer, health_status text, recommendations text[])
LANGUAGE sql
SECURITY DEFINER
STABLE
PARALLEL UNSAFE
COST 100
ROWS 1000
SET search_path TO 'pg_catalog'
AS $body$WITH sessions AS (
  SELECT count(*)::integer AS total,
         count(*) FILTER (WHERE a.state = 'active')::integer AS active,
         count(*) FILTER (WHERE a.state = 'idle')::integer AS idle,
         count(*) FILTER (WHERE a.state LIKE 'idle in transaction%')::integer AS idle_in_transaction,
         current_setting('max_connections')::integer AS maximum
    FROM pg_stat_activity AS a
   WHERE a.backend_type = 'client backend'
     AND a.pid <> pg_backend_pid()
)
SELECT 'application_pool',
       s.total, s.active, s.idle, s.idle_in_transaction, s.maximum,
       CASE
         WHEN s.total > s.maximum * 0.9 THEN 'critical'
         WHEN s.total > s.maximum * 0.8 THEN 'warning'
         ELSE 'healthy'
       END,
       array_remove(ARRAY[
         CASE WHEN s.total > s.maximum * 0.8 THEN 'Connections approach the maximum of the server' END,
         CASE WHEN s.idle_in_transaction > 5 THEN 'Many connections are idle in a transaction' END,
         CASE WHEN s.active > s.total * 0.7 THEN 'Most connections are active: consider a larger pool' END
       ], NULL)
  FROM sessions AS s
$body$;
COMMENT ON FUNCTION monitoring.check_connection_pool_health() IS 'Use of the server''s connections by all databases, not counting the session that asks';

CREATE VIEW monitoring.connection_stats AS
SELECT a.datname AS database_name,
       a.usename AS username,
       a.application_name,
       a.client_addr,
       a.client_hostname,
       a.state,
       count(*) AS connection_count,
       min(a.backend_start) AS oldest_connection,
       max(a.backend_start) AS newest_connection,
       avg(extract(epoch FROM now() - a.backend_start)) AS avg_connection_age_seconds
  FROM pg_stat_activity AS a
 WHERE a.datname = current_database()
 GROUP BY a.datname, a.usename, a.application_name, a.client_addr, a.client_hostname, a.state
 ORDER BY count(*) DESC;
COMMENT ON VIEW monitoring.connection_stats IS 'Connections of this database by user, application, address and state';

CREATE VIEW partitions.coverage AS
SELECT n.nspname AS schema_name,
       p.relname AS table_name,
       count(c.oid) AS partitions,
       count(*) FILTER (WHERE pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT') > 0 AS has_default,
       max(substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \('([^']+)'\)$$)::timestamp with time zone)
         AS covered_until
  FROM pg_partitioned_table AS t
  JOIN pg_class AS p ON p.oid = t.partrelid
  JOIN pg_namespace AS n ON n.oid = p.relnamespace
  JOIN pg_attribute AS k ON k.attrelid = p.oid AND k.attnum = t.partattrs[0]
  LEFT JOIN pg_inherits AS i ON i.inhparent = p.oid
  LEFT JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE t.partstrat = 'r'
   AND t.partnatts = 1
   AND k.atttypid = 'timestamp with time zone'::regtype
 GROUP BY n.nspname, p.relname;
COMMENT ON VIEW partitions.coverage IS 'Range-partitioned tables, the number of their partitions and the time up to which rows are accepted';

CREATE TYPE tasks.task_status_type AS ENUM ('pending', 'queued', 'running', 'paused', 'completed', 'failed', 'cancelled');
CREATE TYPE tasks.task_priority_type AS ENUM ('low', 'normal', 'high', 'urgent', 'critical');

CREATE DOMAIN tasks.task_id_type AS uuid;

CREATE TABLE tasks.queue (
  task_id tasks.task_id_type DEFAULT gen_random_uuid() NOT NULL,
  task_type character varying(100) NOT NULL,
  task_name character varying(255),
  assigned_agent_id agents.agent_id_type,
  created_by_agent_id agents.agent_id_type,
  parent_task_id tasks.task_id_type,
  parent_task_type character varying(100),
  payload jsonb DEFAULT '{}' NOT NULL,
  configuration jsonb DEFAULT '{}',
  metadata jsonb DEFAULT '{}',
  status tasks.task_status_type DEFAULT 'pending',
  priority tasks.task_priority_type DEFAULT 'normal',
  scheduled_at timestamp with time zone,
  started_at timestamp with time zone,
  completed_at timestamp with time zone,
  expires_at timestamp with time zone,
  max_execution_time interval DEFAULT '1 hour',
  max_retries integer DEFAULT 3,
  retry_count integer DEFAULT 0,
  created_at timestamp with time zone DEFAULT now(),
  updated_at timestamp with time zone DEFAULT now(),
  CONSTRAINT queue_pkey PRIMARY KEY (task_id, task_type),
  CONSTRAINT valid_task_type CHECK (length(task_type) > 0),
  CONSTRAINT valid_retry_count CHECK (retry_count >= 0 AND retry_count <= max_retries),
  CONSTRAINT valid_timing CHECK ((started_at IS NULL OR started_at >= created_at) AND (completed_at IS NULL OR completed_at >= COALESCE(started_at, created_at)) AND (expires_at IS NULL OR expires_at > created_at)),
  CONSTRAINT no_self_parent CHECK (task_id <> parent_task_id),
  CONSTRAINT valid_parent CHECK ((parent_task_id IS NULL) = (parent_task_type IS NULL))
)
PARTITION BY LIST (task_type);
COMMENT ON TABLE tasks.queue IS 'Tasks that wait, run or have ended';
CREATE TABLE tasks.queue_inference PARTITION OF tasks.queue FOR VALUES IN ('inference') WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.01', fillfactor = 80);
CREATE TABLE tasks.queue_tool_call PARTITION OF tasks.queue FOR VALUES IN ('tool_call') WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.01', fillfactor = 80);
CREATE TABLE tasks.queue_coordination PARTITION OF tasks.queue FOR VALUES IN ('coordination') WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.01', fillfactor = 80);
CREATE TABLE tasks.queue_default PARTITION OF tasks.queue DEFAULT WITH (autovacuum_analyze_scale_factor = '0.02', autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_scale_factor = '0.01', fillfactor = 80);

CREATE TABLE tasks.dependencies (
  dependency_id uuid DEFAULT gen_random_uuid() NOT NULL,
  task_id tasks.task_id_type NOT NULL,
  task_type character varying(100) NOT NULL,
  depends_on_task_id tasks.task_id_type NOT NULL,
  depends_on_task_type character varying(100) NOT NULL,
  dependency_type character varying(50) DEFAULT 'completion',
  created_at timestamp with time zone DEFAULT now(),
  CONSTRAINT dependencies_pkey PRIMARY KEY (dependency_id),
  CONSTRAINT dependencies_task_key UNIQUE (task_id, depends_on_task_id),
  CONSTRAINT no_self_dependency CHECK (task_id <> depends_on_task_id),
  CONSTRAINT valid_dependency_type CHECK (dependency_type IN ('completion', 'start', 'data', 'resource'))
);
COMMENT ON TABLE tasks.dependencies IS 'Which task waits for which';

CREATE TABLE tasks.executions (
  execution_id uuid DEFAULT gen_random_uuid() NOT NULL,
  task_id tasks.task_id_type NOT NULL,
  task_type character varying(100) NOT NULL,
  agent_id agents.agent_id_type NOT NULL,
  execution_attempt integer DEFAULT 1 NOT NULL,
  started_at timestamp with time zone DEFAULT now() NOT NULL,
  completed_at timestamp with time zone,
  status tasks.task_status_type DEFAULT 'running',
  result jsonb,
  error_message text,
  error_details jsonb,
  cpu_time_ms bigint,
  memory_peak_mb integer,
  io_operations bigint,
  CONSTRAINT executions_pkey PRIMARY KEY (execution_id, started_at),
  CONSTRAINT valid_execution_attempt CHECK (execution_attempt > 0),
  CONSTRAINT completion_consistency CHECK (CASE status
  WHEN 'completed' THEN completed_at IS NOT NULL AND result IS NOT NULL
  WHEN 'failed' THEN completed_at IS NOT NULL AND error_message IS NOT NULL
  WHEN 'cancelled' THEN completed_at IS NOT NULL
  ELSE completed_at IS NULL
END)
)
PARTITION BY RANGE (started_at);
COMMENT ON TABLE tasks.executions IS 'Every attempt at a task, day by day';

COMMENT ON DOMAIN tasks.task_id_type IS 'Identity of a task';

GRANT USAGE ON SCHEMA agents TO plane_reader;
GRANT USAGE ON SCHEMA agents TO plane_writer;

GRANT USAGE ON SCHEMA tasks TO plane_reader;
GRANT USAGE ON SCHEMA tasks TO plane_writer;

GRANT USAGE ON SCHEMA messages TO plane_reader;
GRANT USAGE ON SCHEMA messages TO plane_writer;

GRANT USAGE ON SCHEMA sessions TO plane_reader;
GRANT USAGE ON SCHEMA sessions TO plane_writer;

GRANT USAGE ON SCHEMA knowledge TO plane_reader;
GRANT USAGE ON SCHEMA knowledge TO plane_writer;

GRANT USAGE ON SCHEMA monitoring TO plane_reader;
GRANT USAGE ON SCHEMA monitoring TO plane_writer;

GRANT USAGE ON SCHEMA partitions TO plane_reader;
GRANT USAGE ON SCHEMA partitions TO plane_writer;

GRANT USAGE ON SCHEMA audit TO app_background;

GRANT USAGE ON SCHEMA recovery TO app_background;

GRANT USAGE ON SCHEMA runtime TO plane_writer;

CREATE INDEX outbox_unpublished ON runtime.outbox (xid, "position") WHERE published_at IS NULL;
CREATE INDEX outbox_published ON runtime.outbox (published_at) WHERE published_at IS NOT NULL;
CREATE TRIGGER outbox_wake
  AFTER INSERT ON runtime.outbox
  FOR EACH STATEMENT
  EXECUTE FUNCTION runtime.wake_outbox_relay();
ALTER TABLE runtime.outbox DISABLE TRIGGER outbox_wake;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE runtime.outbox TO plane_writer;

CREATE INDEX inbox_handled ON runtime.inbox (handled_at);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE runtime.inbox TO plane_writer;

CREATE INDEX sagas_unfinished ON runtime.sagas (deadline) WHERE state IN ('running', 'compensating');
CREATE INDEX sagas_correlation ON runtime.sagas (correlation_id);
CREATE TRIGGER sagas_touch
  BEFORE UPDATE ON runtime.sagas
  FOR EACH ROW
  WHEN (old.* IS DISTINCT FROM new.*)
  EXECUTE FUNCTION audit.touch_updated_at();
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE runtime.sagas TO plane_writer;

ALTER TABLE runtime.saga_steps ADD CONSTRAINT saga_steps_saga_fkey FOREIGN KEY (saga_id) REFERENCES runtime.sagas ON DELETE CASCADE;
CREATE TRIGGER saga_steps_touch
  BEFORE UPDATE ON runtime.saga_steps
  FOR EACH ROW
  WHEN (old.* IS DISTINCT FROM new.*)
  EXECUTE FUNCTION audit.touch_updated_at();
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE runtime.saga_steps TO plane_writer;

CREATE INDEX decisions_unfinished ON runtime.decisions (decided_at) WHERE finished_at IS NULL;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE runtime.decisions TO plane_writer;

CREATE INDEX idx_agents_registry_type_status ON agents.registry (agent_type, status);
CREATE INDEX idx_agents_registry_parent ON agents.registry (parent_agent_id) WHERE parent_agent_id IS NOT NULL;
CREATE INDEX idx_agents_registry_metadata_gin ON agents.registry USING gin (metadata);
CREATE INDEX idx_agents_registry_active ON agents.registry (agent_type, updated_at) WHERE status = 'active';
CREATE INDEX idx_agents_registry_capabilities_gin ON agents.registry USING gin (capabilities jsonb_path_ops);
ALTER TABLE agents.registry ADD CONSTRAINT registry_parent_fkey FOREIGN KEY (parent_agent_id) REFERENCES agents.registry ON DELETE SET NULL;
CREATE TRIGGER registry_touch
  BEFORE UPDATE ON agents.registry
  FOR EACH ROW
  WHEN (old.* IS DISTINCT FROM new.*)
  EXECUTE FUNCTION audit.touch_updated_at();
CREATE TRIGGER registry_audit
  AFTER INSERT OR DELETE OR UPDATE OF agent_name, agent_type, capabilities, configuration, metadata, parent_agent_id, status ON agents.registry
  FOR EACH ROW
  EXECUTE FUNCTION audit.record_change();
GRANT SELECT ON TABLE agents.registry TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE agents.registry TO plane_writer;

ALTER TABLE agents.state ADD CONSTRAINT state_agent_fkey FOREIGN KEY (agent_id) REFERENCES agents.registry ON DELETE CASCADE;
CREATE INDEX idx_agents_state_updated ON agents.state (updated_at);
CREATE INDEX idx_agents_state_expires ON agents.state (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idx_agents_state_value_gin ON agents.state USING gin (state_value);
CREATE INDEX idx_agents_state_agent_updated ON agents.state (agent_id, updated_at);
CREATE INDEX idx_agents_state_json_path ON agents.state USING gin (((state_value -> 'computed_fields')));
CREATE POLICY state_writers ON agents.state
  FOR ALL
  TO plane_writer
  USING (true)
  WITH CHECK (true);
CREATE POLICY state_readers ON agents.state
  FOR SELECT
  TO plane_reader
  USING (deleted_at IS NULL);
ALTER TABLE agents.state ENABLE ROW LEVEL SECURITY;
CREATE TRIGGER state_touch
  BEFORE UPDATE ON agents.state
  FOR EACH ROW
  WHEN (old.* IS DISTINCT FROM new.*)
  EXECUTE FUNCTION audit.touch_updated_at();
GRANT SELECT ON TABLE agents.state TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE agents.state TO plane_writer;

ALTER TABLE agents.checkpoints ADD CONSTRAINT checkpoints_agent_fkey FOREIGN KEY (agent_id) REFERENCES agents.registry ON DELETE CASCADE;
CREATE INDEX idx_agents_checkpoints_agent_created ON agents.checkpoints (agent_id, created_at);
CREATE INDEX idx_agents_checkpoints_name ON agents.checkpoints (checkpoint_name) WHERE checkpoint_name IS NOT NULL;
GRANT SELECT ON TABLE agents.checkpoints TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE agents.checkpoints TO plane_writer;

ALTER TABLE agents.lifecycle_events ADD CONSTRAINT lifecycle_events_agent_fkey FOREIGN KEY (agent_id) REFERENCES agents.registry ON DELETE CASCADE;
ALTER TABLE agents.lifecycle_events ADD CONSTRAINT lifecycle_events_triggered_by_fkey FOREIGN KEY (triggered_by) REFERENCES agents.registry ON DELETE SET NULL;
CREATE INDEX idx_agents_lifecycle_agent_created ON agents.lifecycle_events (agent_id, created_at);
CREATE INDEX idx_agents_lifecycle_event_type ON agents.lifecycle_events (event_type, created_at);
CREATE INDEX idx_agents_lifecycle_status_change ON agents.lifecycle_events (new_status, created_at);
GRANT SELECT ON TABLE agents.lifecycle_events TO plane_reader;
GRANT INSERT, SELECT ON TABLE agents.lifecycle_events TO plane_writer;

ALTER TABLE knowledge.facts ADD CONSTRAINT facts_source_agent_fkey FOREIGN KEY (source_agent_id) REFERENCES agents.registry ON DELETE SET NULL;
CREATE INDEX idx_knowledge_facts_entity ON knowledge.facts (entity_type, entity_id);
CREATE INDEX idx_knowledge_facts_predicate ON knowledge.facts (predicate, created_at);
CREATE INDEX idx_knowledge_facts_source ON knowledge.facts (source_agent_id, created_at);
CREATE INDEX idx_knowledge_facts_validity ON knowledge.facts (valid_from, valid_until);
CREATE INDEX idx_knowledge_facts_confidence ON knowledge.facts (confidence_score DESC, created_at);
CREATE INDEX idx_knowledge_facts_object_gin ON knowledge.facts USING gin (object_value);
CREATE INDEX idx_knowledge_facts_entity_predicate ON knowledge.facts (entity_type, entity_id, predicate, valid_from) WHERE valid_until IS NULL;
CREATE INDEX idx_knowledge_facts_text_search ON knowledge.facts USING gin ((to_tsvector('english', object_value ->> 'text_content'))) WHERE object_type = 'text';
CREATE TRIGGER facts_touch
  BEFORE UPDATE ON knowledge.facts
  FOR EACH ROW
  WHEN (old.* IS DISTINCT FROM new.*)
  EXECUTE FUNCTION audit.touch_updated_at();
CREATE TRIGGER facts_audit
  AFTER INSERT OR DELETE OR UPDATE ON knowledge.facts
  FOR EACH ROW
  EXECUTE FUNCTION audit.record_change();
GRANT SELECT ON TABLE knowledge.facts TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE knowledge.facts TO plane_writer;

ALTER TABLE knowledge.embeddings ADD CONSTRAINT embeddings_fact_fkey FOREIGN KEY (fact_id) REFERENCES knowledge.facts ON DELETE CASCADE;
CREATE INDEX idx_knowledge_embeddings_vector ON knowledge.embeddings USING hnsw (embedding_vector public.vector_cosine_ops) WITH (ef_construction = 64, m = 16);
CREATE INDEX idx_knowledge_embeddings_fact ON knowledge.embeddings (fact_id);
CREATE INDEX idx_knowledge_embeddings_model ON knowledge.embeddings (embedding_model, embedding_version);
CREATE INDEX idx_knowledge_embeddings_hash ON knowledge.embeddings (content_hash);
GRANT SELECT ON TABLE knowledge.embeddings TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE knowledge.embeddings TO plane_writer;

CREATE INDEX idx_messages_channels_type_active ON messages.channels (channel_type, is_active);
CREATE TRIGGER channels_audit
  AFTER INSERT OR DELETE OR UPDATE ON messages.channels
  FOR EACH ROW
  EXECUTE FUNCTION audit.record_change();
GRANT SELECT ON TABLE messages.channels TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE messages.channels TO plane_writer;

ALTER TABLE messages.subscriptions ADD CONSTRAINT subscriptions_agent_fkey FOREIGN KEY (agent_id) REFERENCES agents.registry ON DELETE CASCADE;
ALTER TABLE messages.subscriptions ADD CONSTRAINT subscriptions_channel_fkey FOREIGN KEY (channel_id) REFERENCES messages.channels ON DELETE CASCADE;
CREATE INDEX idx_messages_subscriptions_agent ON messages.subscriptions (agent_id, is_active);
CREATE INDEX idx_messages_subscriptions_channel ON messages.subscriptions (channel_id, is_active);
CREATE TRIGGER subscriptions_audit
  AFTER INSERT OR DELETE OR UPDATE ON messages.subscriptions
  FOR EACH ROW
  EXECUTE FUNCTION audit.record_change();
GRANT SELECT ON TABLE messages.subscriptions TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE messages.subscriptions TO plane_writer;

ALTER TABLE messages.log ADD CONSTRAINT log_channel_fkey FOREIGN KEY (channel_id) REFERENCES messages.channels ON DELETE RESTRICT;
ALTER TABLE messages.log ADD CONSTRAINT log_from_agent_fkey FOREIGN KEY (from_agent_id) REFERENCES agents.registry ON DELETE SET NULL;
ALTER TABLE messages.log ADD CONSTRAINT log_to_agent_fkey FOREIGN KEY (to_agent_id) REFERENCES agents.registry ON DELETE RESTRICT;
CREATE INDEX idx_messages_log_from_sent ON messages.log (from_agent_id, sent_at);
CREATE INDEX idx_messages_log_to_sent ON messages.log (to_agent_id, sent_at);
CREATE INDEX idx_messages_log_type_sent ON messages.log (message_type, sent_at);
CREATE INDEX idx_messages_log_correlation ON messages.log (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX idx_messages_log_channel_sent ON messages.log (channel_id, sent_at);
CREATE INDEX idx_messages_log_undelivered ON messages.log (sent_at) WHERE delivered_at IS NULL;
CREATE INDEX idx_messages_log_routing ON messages.log (from_agent_id, to_agent_id, sent_at) WHERE delivered_at IS NULL;
CREATE POLICY log_writers ON messages.log
  FOR ALL
  TO plane_writer
  USING (true)
  WITH CHECK (true);
CREATE POLICY log_readers ON messages.log
  FOR SELECT
  TO plane_reader
  USING (is_persistent);
ALTER TABLE messages.log ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON TABLE messages.log TO plane_reader;
GRANT INSERT, SELECT, UPDATE ON TABLE messages.log TO plane_writer;

CREATE INDEX idx_audit_change_log_table_changed ON audit.change_log (table_name, changed_at);
CREATE POLICY change_log_readers ON audit.change_log
  FOR SELECT
  TO app_background
  USING (true);
ALTER TABLE audit.change_log ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON TABLE audit.change_log TO app_background;

CREATE INDEX idx_monitoring_query_plans_hash_captured ON monitoring.query_plans (query_hash, captured_at);
GRANT SELECT ON TABLE monitoring.query_plans TO plane_reader;
GRANT DELETE, INSERT, SELECT ON TABLE monitoring.query_plans TO app_background;

GRANT INSERT, SELECT, UPDATE ON TABLE recovery.test_results TO app_background;

ALTER TABLE sessions.active ADD CONSTRAINT active_agent_fkey FOREIGN KEY (agent_id) REFERENCES agents.registry ON DELETE CASCADE;
CREATE INDEX idx_sessions_active_agent ON sessions.active (agent_id) WHERE agent_id IS NOT NULL;
CREATE INDEX idx_sessions_active_user ON sessions.active (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX idx_sessions_active_activity ON sessions.active (last_activity);
CREATE INDEX idx_sessions_active_expires ON sessions.active (expires_at);
CREATE POLICY active_writers ON sessions.active
  FOR ALL
  TO plane_writer
  USING (true)
  WITH CHECK (true);
CREATE POLICY active_readers ON sessions.active
  FOR SELECT
  TO plane_reader
  USING (expires_at > now());
ALTER TABLE sessions.active ENABLE ROW LEVEL SECURITY;
GRANT SELECT (agent_id, created_at, expires_at, last_activity, session_id, session_type, user_id) ON TABLE sessions.active TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE sessions.active TO plane_writer;

ALTER TABLE tasks.queue ADD CONSTRAINT queue_assigned_agent_fkey FOREIGN KEY (assigned_agent_id) REFERENCES agents.registry ON DELETE SET NULL;
ALTER TABLE tasks.queue ADD CONSTRAINT queue_created_by_agent_fkey FOREIGN KEY (created_by_agent_id) REFERENCES agents.registry ON DELETE SET NULL;
CREATE INDEX idx_tasks_queue_assigned_agent ON tasks.queue (assigned_agent_id, status);
CREATE INDEX idx_tasks_queue_type_status ON tasks.queue (task_type, status);
CREATE INDEX idx_tasks_queue_parent ON tasks.queue (parent_task_id) WHERE parent_task_id IS NOT NULL;
CREATE INDEX idx_tasks_queue_scheduled ON tasks.queue (scheduled_at) WHERE scheduled_at IS NOT NULL;
CREATE INDEX idx_tasks_queue_expires ON tasks.queue (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX idx_tasks_queue_payload_gin ON tasks.queue USING gin (payload);
CREATE INDEX idx_tasks_queue_priority_covering ON tasks.queue (status, priority DESC, created_at) INCLUDE (task_id, task_type, assigned_agent_id);
CREATE INDEX idx_tasks_queue_pending ON tasks.queue (priority DESC, created_at) WHERE status = 'pending';
CREATE INDEX idx_tasks_queue_estimated_duration ON tasks.queue (((EXTRACT(epoch FROM max_execution_time)::integer))) WHERE status IN ('pending', 'queued');
CREATE INDEX idx_tasks_queue_payload_specific ON tasks.queue USING gin (((payload -> 'parameters')));
ALTER TABLE tasks.queue ADD CONSTRAINT queue_parent_fkey FOREIGN KEY (parent_task_id, parent_task_type) REFERENCES tasks.queue ON DELETE SET NULL;
CREATE TRIGGER queue_touch
  BEFORE UPDATE ON tasks.queue
  FOR EACH ROW
  WHEN (old.* IS DISTINCT FROM new.*)
  EXECUTE FUNCTION audit.touch_updated_at();
GRANT SELECT ON TABLE tasks.queue TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE tasks.queue TO plane_writer;

ALTER TABLE tasks.dependencies ADD CONSTRAINT dependencies_task_fkey FOREIGN KEY (task_id, task_type) REFERENCES tasks.queue ON DELETE CASCADE;
ALTER TABLE tasks.dependencies ADD CONSTRAINT dependencies_depends_on_fkey FOREIGN KEY (depends_on_task_id, depends_on_task_type) REFERENCES tasks.queue ON DELETE CASCADE;
CREATE INDEX idx_tasks_dependencies_depends_on ON tasks.dependencies (depends_on_task_id);
GRANT SELECT ON TABLE tasks.dependencies TO plane_reader;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE tasks.dependencies TO plane_writer;

ALTER TABLE tasks.executions ADD CONSTRAINT executions_task_fkey FOREIGN KEY (task_id, task_type) REFERENCES tasks.queue ON DELETE CASCADE;
ALTER TABLE tasks.executions ADD CONSTRAINT executions_agent_fkey FOREIGN KEY (agent_id) REFERENCES agents.registry ON DELETE RESTRICT;
CREATE INDEX idx_tasks_executions_task_started ON tasks.executions (task_id, started_at);
CREATE INDEX idx_tasks_executions_agent_started ON tasks.executions (agent_id, started_at);
CREATE INDEX idx_tasks_executions_status ON tasks.executions (status, started_at);
GRANT SELECT ON TABLE tasks.executions TO plane_reader;
GRANT INSERT, SELECT, UPDATE ON TABLE tasks.executions TO plane_writer;

GRANT SELECT ON TABLE monitoring.connection_stats TO plane_reader;
GRANT SELECT ON TABLE monitoring.connection_stats TO plane_writer;

GRANT SELECT ON TABLE partitions.coverage TO plane_reader;
GRANT SELECT ON TABLE partitions.coverage TO plane_writer;
