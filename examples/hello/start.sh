#!/bin/busybox sh
# Process 1 of a container gets no signal that it does not ask for, so the server runs as a child and SIGTERM,
# which `docker stop` sends, is passed on. A request in progress is another child and comes to its end.
/bin/busybox httpd -f -p 8080 -h /site &
server=$!
trap 'kill $server' TERM INT
wait $server
