-- version: 1.7.0
-- description: Triggers, off unless an environment turns them on, that put changes of tables into the outbox
-- kind: function
-- covered-by: specs

CREATE FUNCTION runtime.publish_state_change()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$DECLARE
  before jsonb;
  after jsonb;
  changed record;
  event jsonb;
BEGIN
  -- A tombstone holds no value: setting it is the deletion, and removing it later is none.
  IF TG_OP <> 'INSERT' AND OLD.deleted_at IS NULL THEN before := OLD.state_value; END IF;
  IF TG_OP <> 'DELETE' AND NEW.deleted_at IS NULL THEN after := NEW.state_value; END IF;
  IF before IS NOT DISTINCT FROM after THEN
    RETURN NULL;
  END IF;
  IF TG_OP = 'DELETE' THEN changed := OLD; ELSE changed := NEW; END IF;
  event := jsonb_build_object(
    'operation', CASE WHEN before IS NULL THEN 'INSERT' WHEN after IS NULL THEN 'DELETE' ELSE 'UPDATE' END,
    'agent_id', changed.agent_id,
    'state_key', changed.state_key,
    'old_value', before,
    'new_value', after,
    'version', changed.version,
    'timestamp', extract(epoch FROM now()));
  -- A message must fit its stream; who needs the value reads it.
  IF octet_length(event::text) > 524288 THEN
    event := event || '{"old_value": null, "new_value": null, "omitted": true}';
  END IF;
  INSERT INTO runtime.outbox (subject, payload) VALUES ('agents.state.' || changed.agent_id::text, event);
  RETURN NULL;
END;
$body$;
COMMENT ON FUNCTION runtime.publish_state_change() IS 'Notes a change of agents.state in the outbox';
CREATE FUNCTION runtime.publish_task_change()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$DECLARE
  task record;
  what text;
BEGIN
  IF TG_OP = 'DELETE' THEN task := OLD; ELSE task := NEW; END IF;
  IF TG_OP = 'UPDATE' AND NEW.status IS NOT DISTINCT FROM OLD.status THEN
    RETURN NULL;
  END IF;
  what := CASE
    WHEN TG_OP = 'INSERT' THEN 'created'
    -- What had ended was told of when it did.
    WHEN TG_OP = 'DELETE' AND OLD.status IN ('completed', 'failed', 'cancelled') THEN 'updated'
    WHEN TG_OP = 'DELETE' THEN 'cancelled'
    WHEN NEW.status = 'running' THEN 'started'
    WHEN NEW.status IN ('completed', 'failed', 'cancelled') THEN NEW.status::text
    ELSE 'updated' END;
  INSERT INTO runtime.outbox (subject, payload) VALUES (
    'tasks.' || what || '.' || task.task_id::text,
    jsonb_build_object(
      'task_id', task.task_id,
      'task_type', task.task_type,
      'status', CASE WHEN TG_OP <> 'DELETE' THEN NEW.status END,
      'previous_status', CASE WHEN TG_OP <> 'INSERT' THEN OLD.status END,
      'assigned_agent_id', task.assigned_agent_id,
      'priority', task.priority,
      'timestamp', extract(epoch FROM now()),
      'metadata', task.metadata));
  RETURN NULL;
END;
$body$;
COMMENT ON FUNCTION runtime.publish_task_change() IS 'Notes a new task, a change of its status or its end in the outbox';
CREATE FUNCTION runtime.publish_lifecycle_event()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$BEGIN
  INSERT INTO runtime.outbox (subject, payload) VALUES (
    'agents.lifecycle.' || NEW.agent_id::text,
    jsonb_build_object(
      'event_id', NEW.event_id,
      'agent_id', NEW.agent_id,
      'event_type', NEW.event_type,
      'previous_status', NEW.previous_status,
      'new_status', NEW.new_status,
      'event_data', NEW.event_data,
      'triggered_by', NEW.triggered_by,
      'timestamp', extract(epoch FROM NEW.created_at)));
  RETURN NULL;
END;
$body$;
COMMENT ON FUNCTION runtime.publish_lifecycle_event() IS 'Notes an event of an agent''s life in the outbox';
CREATE FUNCTION runtime.publish_heartbeat()
RETURNS trigger
LANGUAGE plpgsql
VOLATILE
PARALLEL UNSAFE
COST 100
SET search_path TO 'pg_catalog'
AS $body$BEGIN
  INSERT INTO runtime.outbox (subject, payload) VALUES (
    'agents.heartbeat.' || NEW.agent_id::text,
    jsonb_build_object(
      'agent_id', NEW.agent_id,
      'status', NEW.status,
      'timestamp', extract(epoch FROM NEW.last_heartbeat)));
  RETURN NULL;
END;
$body$;
COMMENT ON FUNCTION runtime.publish_heartbeat() IS 'Notes an agent''s sign of life in the outbox';

CREATE TRIGGER trigger_agent_heartbeat_nats_notify
  AFTER UPDATE OF last_heartbeat ON agents.registry
  FOR EACH ROW
  WHEN (new.last_heartbeat IS DISTINCT FROM old.last_heartbeat AND new.last_heartbeat IS NOT NULL)
  EXECUTE FUNCTION runtime.publish_heartbeat();
ALTER TABLE agents.registry DISABLE TRIGGER trigger_agent_heartbeat_nats_notify;

CREATE TRIGGER trigger_agent_state_nats_notify
  AFTER INSERT OR DELETE OR UPDATE ON agents.state
  FOR EACH ROW
  EXECUTE FUNCTION runtime.publish_state_change();
ALTER TABLE agents.state DISABLE TRIGGER trigger_agent_state_nats_notify;

CREATE TRIGGER trigger_agent_lifecycle_nats_notify
  AFTER INSERT ON agents.lifecycle_events
  FOR EACH ROW
  EXECUTE FUNCTION runtime.publish_lifecycle_event();
ALTER TABLE agents.lifecycle_events DISABLE TRIGGER trigger_agent_lifecycle_nats_notify;

CREATE TRIGGER trigger_task_lifecycle_nats_notify
  AFTER INSERT OR DELETE OR UPDATE ON tasks.queue
  FOR EACH ROW
  EXECUTE FUNCTION runtime.publish_task_change();
ALTER TABLE tasks.queue DISABLE TRIGGER trigger_task_lifecycle_nats_notify;
