DECLARE
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
