# stubborn.sh NAME: note `NAME up` in the journal, and end for nothing but a SIGKILL; note each SIGTERM.
trap 'echo "$1 got TERM" >> journal' TERM
echo "$1 up" >> journal
while :; do
    sleep infinity &
    wait
done
