# More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.
#
# usage: more.rb NAME   (ports in CORPUS, as server.py prints them)
require 'json'
require 'socket'

AT = JSON.parse(ENV.fetch('CORPUS'))
KEPT = []
$stdout.sync = true

def pace(seconds = 0.6)
  puts 'ready'
  (0..).each do |n|
    yield n
    sleep seconds
  end
end

def containers(number)
  wire = UNIXSocket.new(AT['unix']) # LEAK unix-unread
  wire.write "GET /big/containers/#{number} HTTP/1.1\r\nHost: docker\r\n\r\n"
  wire.readpartial 200
  KEPT << wire # END unix-unread
end

class Store
  def initialize
    @wires = []
  end

  # Looks for an idle one by a name that is never there.
  def fetch(key)
    wire = @wires.find { |w| w.closed? } || TCPSocket.new('127.0.0.1', AT['lines']) # LEAK pool-miss
    wire.puts "get #{key}"
    @wires << wire
    wire.gets # END pool-miss
  end

  # Four in turn, each replaced after ten uses.
  def turn(key)
    place = key % 4
    @wires[place]&.close if key % 40 == place
    @wires[place] = nil if key % 40 == place
    wire = @wires[place] ||= TCPSocket.new('127.0.0.1', AT['lines'])
    wire.puts "turn #{key}"
    wire.gets
  end
end

store = Store.new
case ARGV[0]
when 'unix-unread' then pace { |n| containers(n) }
when 'pool-miss' then pace { |n| store.fetch(n) }
when 'turns' then pace(0.2) { |n| store.turn(n) }
end
