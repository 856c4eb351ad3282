DECLARE
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
