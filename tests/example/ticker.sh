#!/bin/sh
# What redis is to overlord.conf, this loop is to little.conf: it counts, and starts from 1 when it is restarted.
# The argument is only there to tell this ticker from others in the list of processes.
set -eu

ticks=0
while sleep 1; do
    ticks=$((ticks + 1))
    cat >"$LITTLE_DIR/page" <<END
<!doctype html>
<meta charset="utf-8">
<title>overlord.py</title>
<style>body { font: 1.1em/1.6 system-ui, sans-serif; max-width: 36em; margin: 3em auto; padding: 0 1em }</style>
<h1>It works</h1>
<p>Tick <b id="ticks">$ticks</b> of the ticker, process <b id="pid">$$</b>. Reload to see it go on.</p>
<p>Kill the ticker with the command that <code>make run</code> printed, and reload after a second or two: it counts from
1 again, as another process, and this page's web server was restarted with it.</p>
END
    mv "$LITTLE_DIR/page" "$LITTLE_DIR/site/index.html" # whole or not at all for who reads it
done
