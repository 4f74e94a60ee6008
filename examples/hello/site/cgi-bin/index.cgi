#!/bin/busybox sh
# httpd runs this for every path that ends in "/" and has no index.html.
#   /          who answers, fresh each time
#   /cached/   the same, and caches may keep it for a minute
#   /slow/     the same after a second: what an update must not cut off
case "$REQUEST_URI" in
  /cached/*) caching="public, max-age=60" ;;
  *) caching="no-store" ;;
esac
case "$REQUEST_URI" in
  /slow/*) /bin/busybox sleep 1 ;;
esac
body=$(printf '{"app":"%s","version":"%s","release":"%s","region":"%s","node":"%s","replica":"%s","time":"%s"}' \
  "$LOCCI_APP" "$HELLO_VERSION" "$LOCCI_RELEASE" "$LOCCI_REGION" "$LOCCI_NODE" "$LOCCI_REPLICA" \
  "$(/bin/busybox date -u +%Y-%m-%dT%H:%M:%SZ)")
# httpd closes the connection after a script; saying so keeps clients from using it again.
printf 'Content-Type: application/json\r\nCache-Control: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n' \
  "$caching" "$((${#body} + 1))" "$body"
