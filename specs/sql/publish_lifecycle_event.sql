BEGIN
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
