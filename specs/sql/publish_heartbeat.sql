BEGIN
  INSERT INTO runtime.outbox (subject, payload) VALUES (
    'agents.heartbeat.' || NEW.agent_id::text,
    jsonb_build_object(
      'agent_id', NEW.agent_id,
      'status', NEW.status,
      'timestamp', extract(epoch FROM NEW.last_heartbeat)));
  RETURN NULL;
END;
