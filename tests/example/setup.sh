#!/bin/sh
# Runs as root before each start of the application, which as www-data could do none of this.
set -eu

mkdir -p /run/app
chown www-data: /run/app
# An application that was killed left its socket behind, and the next one could not bind.
rm -f /run/app/app.sock

echo 'setup: /run/app is ready'
