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
 ORDER BY count(*) DESC
