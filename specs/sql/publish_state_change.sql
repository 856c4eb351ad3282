DECLARE
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
