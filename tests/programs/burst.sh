# burst.sh COUNT: leave COUNT zombies behind, all at once: they become PID 1's in the moment in which this shell ends.
count=0
while [ "$count" -lt "$1" ]; do
    : &
    count=$((count + 1))
done
